"""Prompts -> calibration rows of token ids; evaluation texts -> windows of token ids; the overlap
of the two, counted.

Runs in a tool environment (it needs the checkpoint's tokenizer). Whatever is measured or quantized
later uses these ids, the same for every tool and engine."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import CalibrationError
from pipeline.recipe import Calibration, Perplexity, PromptSet
from pipeline.records import Samples, Text, Texts
from pipeline.source import coverage, encoding, prompts
from pipeline.source.checkpoint import embedding_rows
from pipeline.source.encoding import Encoder, Refused
from pipeline.source.prompts import Document
from pipeline.source.tokens import added

# of the calibration tokens may be one and the same; a full stop or a space makes up a tenth
MOST_OF_ONE = 0.5
# of the prompts that are rendered may be left out since the chat template does not take them
MOST_REFUSED = 0.1
OVERLAP_WORDS = (
    13  # the sequence length of GPT-3's contamination study (arXiv 2005.14165, appendix C)
)


class Packed(NamedTuple):
    """`rows`: [samples, tokens] token ids; `used`: the texts they are made of; `refused`: prompts
    the template did not take."""

    rows: list[list[int]]
    used: list[str]
    refused: int


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Worker verb: writes samples.json and texts.json into job["out"]. Raises CalibrationError."""
    from transformers import AutoTokenizer

    calibration = Calibration.model_validate(job["calibration"])
    perplexity = Perplexity.model_validate(job["perplexity"])
    sets = {name: PromptSet.model_validate(value) for name, value in job["prompt_sets"].items()}
    source, tokenizer = Path(job["checkpoint"]), AutoTokenizer.from_pretrained(job["checkpoint"])
    print(f"calibrate: reading {', '.join(sets)}", flush=True)
    texts = {name: "\n\n".join(prompts.texts(name, sets[name])) for name in perplexity.texts}
    documents = prompts.documents(calibration.prompts, sets[calibration.prompts])
    front = added(tokenizer).front
    encoder = Encoder(
        tokenizer, front, calibration.chat_template, sets[calibration.prompts].dialogue
    )
    packed = pack(encoder, documents.prompts, calibration)
    cut = [windows(tokenizer, front, name, text, perplexity) for name, text in texts.items()]
    rows = embedding_rows(source)
    for name, ids in (
        (calibration.prompts, packed.rows),
        *((text.name, text.windows) for text in cut),
    ):
        encoding.require_rows(name, ids, rows)
    share = overlap(texts.values(), packed.used)
    if share > calibration.max_overlap:
        raise CalibrationError(
            f"calibration.max_overlap: {share:.2%} of the evaluation texts' {OVERLAP_WORDS}-word"
            " sequences occur in the calibration samples, allowed are"
            f" {calibration.max_overlap:.2%}. Use other prompts or another text."
        )
    samples = Samples(
        prompts=calibration.prompts,
        seed=calibration.seed,
        prompts_used=len(packed.used),
        prompts_empty=documents.empty,
        prompts_repeated=documents.repeated,
        prompts_refused=packed.refused,
        template_date=encoding.TEMPLATE_DATE.date().isoformat() if encoder.dated else None,
        sha256=ids_hash(packed.rows),
        overlap=share,
        overlap_limit=calibration.max_overlap,
        ids=packed.rows,
        coverage=coverage.count(source, packed.rows),
    )
    samples.write(Path(job["out"]) / "samples.json")
    Texts(texts=cut).write(Path(job["out"]) / "texts.json")
    return {
        "overlap": share,
        "prompts_used": len(packed.used),
        "notes": [*prompts.notes(documents), *_notes(packed, encoder)],
    }


def _notes(packed: Packed, encoder: Encoder) -> list[str]:
    remarks = (
        [f"{packed.refused:,} prompts are left out, which the chat template refuses"]
        if packed.refused
        else []
    )
    return [
        *remarks,
        *(
            [f"the chat template's date is {encoding.TEMPLATE_DATE:%Y-%m-%d}, not today's"]
            if encoder.dated
            else []
        ),
    ]


def pack(encoder: Encoder, documents: list[Document], calibration: Calibration) -> Packed:
    """Seeded choice of prompts, each cut to `tokens` ids, packed end to end into full rows. Raises
    CalibrationError."""
    order = random.Random(calibration.seed).sample(range(len(documents)), len(documents))
    need = calibration.samples * calibration.tokens
    stream: list[int] = []
    used: list[str] = []
    refused: dict[int, str] = {}
    for index in order:
        if len(stream) >= need:
            break
        try:
            text = encoder.text(documents[index])
        except Refused as error:
            refused[index] = str(error)
            if len(refused) > MOST_REFUSED * len(documents):
                break
            continue
        stream.extend(encoder.ids(documents[index], text)[: calibration.tokens])
        used.append(text)
    if len(refused) > MOST_REFUSED * (len(used) + len(refused)):
        raise _too_many_refused(calibration.prompts, refused, len(used) + len(refused))
    if len(stream) < need:
        cut = (
            " A .txt file is one document: use a .jsonl file with a prompt on each line."
            if len(documents) == 1
            else ""
        )
        raise CalibrationError(
            f"calibration: {calibration.samples} samples of {calibration.tokens} tokens need {need}"
            f" tokens, the {len(documents)} prompts of {calibration.prompts!r} give {len(stream)}"
            " (each"
            f" is cut to {calibration.tokens}). Ask for fewer samples or tokens.{cut}"
        )
    rows = [stream[i : i + calibration.tokens] for i in range(0, need, calibration.tokens)]
    _require_variety(calibration.prompts, stream[:need])
    return Packed(rows, used, len(refused))


def _too_many_refused(name: str, refused: dict[int, str], tried: int) -> CalibrationError:
    first = min(refused)
    return CalibrationError(
        f"prompt set {name!r}: the checkpoint's chat template refuses {len(refused)} of {tried}"
        f" prompts, allowed are {MOST_REFUSED:.0%}; the first is number {first + 1}:"
        f" {refused[first]}. Use dialogues that the template takes, or set"
        " calibration.chat_template to false."
    )


def _require_variety(name: str, stream: list[int]) -> None:
    """A quantizer that sees one token over and over learns nothing of the others. Raises
    CalibrationError."""
    token, count = Counter(stream).most_common(1)[0]
    if count > MOST_OF_ONE * len(stream):
        raise CalibrationError(
            f"prompt set {name!r}: token {token} makes up {count / len(stream):.0%} of the"
            f" calibration rows, expected at most {MOST_OF_ONE:.0%}. Use prompts like those that"
            " the model will serve."
        )


def windows(tokenizer: Any, front: list[int], name: str, text: str, perplexity: Perplexity) -> Text:
    """The text tokenized once and cut into non-overlapping windows; the tail that fills none is
    dropped.

    `front` is what the tokenizer puts before a text; what it puts behind is left out.
    """
    encoded = tokenizer(text, verbose=False, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = [*front, *encoded["input_ids"]], [(0, 0)] * len(front) + encoded["offset_mapping"]
    size, bos = perplexity.window, perplexity.bos
    if bos == "every":
        if tokenizer.bos_token_id is None:
            raise CalibrationError(
                "evaluate.perplexity.bos: 'every', but the tokenizer has no BOS token. Use 'first'."
            )
        if ids[:1] == [tokenizer.bos_token_id]:
            ids, spans = ids[1:], spans[1:]
        size -= 1
    starts = range(0, len(ids) - size + 1, size)[: perplexity.max_windows]
    rows = [ids[i : i + size] for i in starts]
    if not rows:
        raise CalibrationError(
            f"text {name!r}: {len(ids)} tokens do not fill one window of {perplexity.window}."
        )
    unscored = 0 if bos == "every" else 1
    scored_bytes = [
        len(text[spans[i + unscored][0] : spans[i + size - 1][1]].encode()) for i in starts
    ]
    if bos == "every":
        rows = [[tokenizer.bos_token_id, *row] for row in rows]
    return Text(
        name=name,
        bos=bos,
        characters=len(text),
        tokens_dropped=len(ids) - len(rows) * size,
        sha256=ids_hash(rows),
        windows=rows,
        bytes=scored_bytes,
    )


def overlap(texts: Iterable[str], prompts: list[str]) -> float:
    """Share of the texts' 13-word sequences that occur in the prompts; 0 when the texts are shorter
    than that."""
    seen = {gram for prompt in prompts for gram in _grams(prompt)}
    total = repeated = 0
    for text in texts:
        for gram in _grams(text):
            total += 1
            repeated += gram in seen
    return repeated / total if total else 0.0


def _grams(text: str) -> Iterator[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return zip(*(words[i:] for i in range(OVERLAP_WORDS)))  # noqa: B905  (they differ in length)


def ids_hash(rows: list[list[int]]) -> str:
    """SHA-256 over token ids and their order: what samples and texts are known by."""
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
