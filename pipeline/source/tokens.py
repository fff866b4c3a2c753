"""What a tokenizer puts around a text.

A model that was trained with BOS in front needs it there. An end token behind a context says that
the text is over: what is scored behind it, or calibrated with it inside a row, is no longer what
the model will see (lm-eval scored 25 % instead of 88 %)."""

from __future__ import annotations

from typing import Any

from pipeline.errors import CheckpointError
from pipeline.records import Tokenizer

PROBES = ("The boat is green.", "7 + 5 = 12")


def added(tokenizer: Any) -> Tokenizer:
    """Token ids that are put in front of every text and behind it. Raises CheckpointError if they
    depend on the text."""
    added_ids = {tuple(map(tuple, _around(tokenizer, probe))) for probe in PROBES}
    if len(added_ids) != 1:
        raise CheckpointError(
            "the tokenizer puts other tokens around one text than around another:"
            f" {sorted(added_ids)}."
            " Expected the same."
        )
    front, end = added_ids.pop()
    return Tokenizer(front=list(front), end=list(end))


def _around(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    whole = tokenizer(text)["input_ids"]
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if plain and whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    raise CheckpointError(
        f"the tokenizer makes {whole} of {text!r} with its special tokens and {plain} without."
        " Expected these within those."
    )
