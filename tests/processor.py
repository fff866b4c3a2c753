"""What the engines can run on this machine's processor, for tests that expect to see it run."""

from __future__ import annotations

import pytest

from pipeline.engines.host import lacks
from pipeline.recipe import Serve, Variant

NO_INT4_ON_VLLM = lacks(
    Variant(engine="vllm", quantizer="gptq", weights="int4"), Serve(max_model_len=64)
)
NO_BF16_ON_OPENVINO = lacks(Variant(engine="openvino"), Serve(max_model_len=64, precision="bf16"))
needs_int4_on_vllm = pytest.mark.skipif(
    NO_INT4_ON_VLLM is not None, reason=f"not to be run here: {NO_INT4_ON_VLLM}"
)
# A variant of the tiny recipe on vLLM, the quantized one where it can be served.
ON_VLLM = "vllm-bf16" if NO_INT4_ON_VLLM else "gptq-int4"
NOT_MEASURED = {"gptq-int4", "awq-int4"} if NO_INT4_ON_VLLM else set[str]()
