"""The weights of a vLLM artifact alone, in float32 torch: what quantization itself did, with no
engine's precision in between."""

from __future__ import annotations

from typing import Any

from pipeline.engines.reference import ReferenceEngine
from pipeline.errors import ArtifactError
from pipeline.formats.decoded import weights


class DequantizedEngine(ReferenceEngine):
    """The reference's arithmetic over the artifact's weights: what differs from the reference is
    the quantization alone."""

    def _load(self) -> Any:
        """The model of config.json less its quantization_config. Raises ArtifactError unless
        weights and places match."""
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(self._artifact, trust_remote_code=False)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with self._torch.device(
            "meta"
        ):  # for its class only: the Auto class itself takes no state dict (transformers 5.19)
            shell = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        model, loading_info = type(shell).from_pretrained(
            None,
            config=shell.config,
            state_dict=dict(weights(self._artifact)),
            dtype=self._torch.float32,
            ignore_mismatched_sizes=True,  # to find them in the answer, and refuse them below
            output_loading_info=True,
        )
        # A tied lm_head that is not stored is not among the missing: transformers ties before it
        # counts.
        wrong = {kind: sorted(map(str, names)) for kind, names in loading_info.items() if names}
        if wrong:
            raise ArtifactError(
                f"{self._artifact}: its weights are not those of {config.model_type}: {wrong}."
            )
        return model
