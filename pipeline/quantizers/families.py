"""Model families: which of the table's lines a small model of each went through, random and
trained, and what did not work.

tests/contract/test_families.py makes them all on a CPU and holds UNSERVED to what it sees, both
ways."""

from __future__ import annotations

from pipeline.quantizers.table import CPU, Refused

# model_type of config.json, and the models that have it
FAMILIES = {
    "llama": "Llama 2 and 3",
    "qwen2": "Qwen 2 and 2.5",
    "qwen3": "Qwen 3",
    "mistral": "Mistral",
    "phi3": "Phi-3 and Phi-4",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3, text only",
    "gpt_neox": "GPT-NeoX, Pythia",
    "mixtral": "Mixtral (experts)",
    "qwen3_moe": "Qwen 3 (experts)",
}
GEMMA, EXPERTS = ("gemma2", "gemma3_text"), ("mixtral", "qwen3_moe")
# Without quantizers: whatever makes it, and unquantized too.
UNSERVED = (
    Refused(
        (),
        "openvino",
        {},
        "optimum-intel 2.2.0 exports Gemma 2 and 3 with transformers up to 5.0 only, it runs with"
        " 5.5.4",
        "engine vllm, quantizer compressed-tensors",
        models=GEMMA,
    ),
    Refused(
        ("awq",),
        "vllm",
        {},
        "GPTQModel 7.6.0's AWQ dies on sliding windows (shapes of masks in Gemma 2, rotary"
        " embeddings without a layer type in Gemma 3)",
        "quantizer gptq, or compressed-tensors with method awq",
        models=GEMMA,
    ),
    Refused(
        ("gptq", "awq"),
        "vllm",
        {},
        "GPTQModel 7.6.0 stores gate_up_proj as two layers, which the checkpoint does not have",
        "quantizer compressed-tensors",
        models=("phi3",),
    ),
    Refused(
        (),
        "vllm",
        {},
        "vLLM 0.32.0 serves it through transformers' classes, which it changes in its process, so"
        " that the scores of the weights alone cannot be had there",
        "engine openvino",
        models=("gpt_neox",),
    ),
    Refused(
        ("neural-compressor",),
        "openvino",
        {},
        "Neural Compressor 3.10 quantizes linear layers, and transformers 5 holds "
        "experts in one tensor",
        "quantizer openvino with activations int8",
        models=EXPERTS,
    ),
    Refused(
        ("neural-compressor",),
        "vllm",
        {},
        "Neural Compressor 3.10 quantizes linear layers, and transformers 5 holds "
        "experts in one tensor",
        "engine openvino, quantizer openvino",
        models=EXPERTS,
    ),
    Refused(
        ("openvino",),
        "openvino",
        {"gptq": (True,)},
        "NNCF 3.4.0's GPTQ dies on weights of three dimensions, which experts have",
        "awq true and scale_estimation true",
        models=EXPERTS,
    ),
    Refused(
        ("gptq", "awq", "compressed-tensors", "auto-round"),
        "vllm",
        {},
        "vLLM 0.32.0 has kernels for quantized experts on CPUs with AMX only",
        "engine openvino",
        (CPU,),
        models=EXPERTS,
    ),
)
