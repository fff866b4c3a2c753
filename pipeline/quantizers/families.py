"""Model families: which of the table's lines a small random model of each went through, and what did not work.

tests/contract/test_families.py makes them all on a CPU and holds UNSERVED to what it sees, both ways.
"""

from __future__ import annotations

from pipeline.quantizers.table import Refused

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
UNSERVED: tuple[Refused, ...] = ()
