"""Does a checkpoint hold what its architecture expects? Worker side: transformers builds the model
without memory for weights.

The checkpoint's tensors go through transformers' own loading as names and shapes alone ("meta"
device), so that what it renames, ties, merges or ignores counts as it does when the weights are
loaded. Missing tensors would be filled with random numbers there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import CheckpointError
from pipeline.source import tokens
from pipeline.source.checkpoint import source_tensors
from pipeline.source.tensors import Tensor

SHOWN = 8  # names of tensors in a message
BUFFERS = (
    "inv_freq",
    "attention.bias",
    "attn.bias",
    "masked_bias",
    "position_ids",
)  # computed, stored by older versions
LISTED = ("missing_keys", "unexpected_keys", "mismatched_keys")
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Worker verb: what the tokenizer adds, as JSON. Raises CheckpointError for a checkpoint that
    is not whole."""
    folder, named = Path(job["checkpoint"]), job["named"]
    check(folder, named)
    return {"tokenizer": tokens.added(_tokenizer(folder, named)).model_dump()}


def check(folder: Path, named: str) -> None:
    """Raises CheckpointError naming the tensors that are missing, not expected or of another shape,
    in a checkpoint `named` so."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            shell = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (
        Exception
    ) as error:  # a configuration class raises whatever a wrong value makes Python raise
        raise _not_built(named, error) from error
    tensors = source_tensors(folder)
    try:
        _, loading_info = type(shell).from_pretrained(
            None,
            config=shell.config,
            state_dict={name: _without_data(tensor) for name, tensor in tensors.items()},
            device_map="meta",
            ignore_mismatched_sizes=True,  # to find them in the answer, and refuse them below
            output_loading_info=True,
        )
    except Exception as error:  # as above, while tensors are merged
        raise _not_built(named, error) from error
    if wrong := differences(loading_info):
        raise CheckpointError(
            f"{named}: not the tensors that {type(shell).__name__} expects by config.json: {wrong}."
            " Fetch it again, or use the checkpoint of the whole model with its own config.json."
        )


def differences(loading_info: dict[str, Any]) -> str:
    """transformers' loading info in words; empty if every weight found its place."""
    extra = [name for name in loading_info["unexpected_keys"] if not name.endswith(BUFFERS)]
    shapes = [
        f"{name} ({_shape(stored)}, expected {_shape(wanted)})"
        for name, stored, wanted in sorted(loading_info["mismatched_keys"])
    ]
    mismatches = [
        ("missing", sorted(loading_info["missing_keys"])),
        ("not expected", sorted(extra)),
        ("of another shape", shapes),
    ]
    failed = [
        (kind, sorted(map(str, names)))
        for kind, names in loading_info.items()
        if names and kind not in LISTED
    ]
    return "; ".join(f"{kind}: {_list(names)}" for kind, names in (*mismatches, *failed) if names)


def _shape(shape: Any) -> str:
    return str(list(shape))


def _list(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _without_data(tensor: Tensor) -> Any:
    import torch

    if tensor.dtype not in DTYPES and not tensor.name.endswith(BUFFERS):
        raise CheckpointError(
            f"{tensor.file}: tensor {tensor.name} is of type {tensor.dtype}, expected one of"
            f" {', '.join(DTYPES)}."
        )
    return torch.empty(
        tensor.shape, dtype=getattr(torch, DTYPES.get(tensor.dtype, "float32")), device="meta"
    )


def _not_built(named: str, error: Exception) -> CheckpointError:
    from transformers import __version__

    if isinstance(error, CheckpointError):
        return error
    message = " ".join(str(error).split())
    if "trust_remote_code" in message or "remote code" in message:
        return CheckpointError(
            f"{named}: config.json: auto_map asks for code from the repository, which quantgate"
            f" never runs, and transformers {__version__} does not have this architecture itself."
            " Use a checkpoint whose architecture it has."
        )
    return CheckpointError(
        f"{named}: transformers {__version__} cannot build a causal language model by its"
        f" config.json: {type(error).__name__}: {message[:300]}. Expected a checkpoint of an"
        " architecture that it has."
    )


def _tokenizer(folder: Path, named: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # tokenizers raises Exception itself for a file that it cannot read
        raise CheckpointError(
            f"{named}: its tokenizer cannot be loaded ({type(error).__name__}:"
            f" {' '.join(str(error).split())[:300]}). Expected tokenizer.json and"
            " tokenizer_config.json of the same model."
        ) from error
