"""Prompts -> calibration rows of token ids; evaluation texts -> windows of token ids; the overlap of the two, counted.

Runs in a tool environment (it needs the checkpoint's tokenizer). Whatever is measured or quantized later uses these
ids, the same for every tool and engine.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.artifact import hash_file
from pipeline.errors import CalibrationError
from pipeline.quantizers import coverage
from pipeline.recipe import Calibration, Perplexity, PromptSet
from pipeline.records import Samples, Text, Texts

MOST_OF_ONE = 0.5  # of the calibration tokens may be one and the same; a full stop or a space makes up a tenth
OVERLAP_WORDS = 13  # the sequence length of GPT-3's contamination study (arXiv 2005.14165, appendix C)


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Worker verb: writes samples.json and texts.json into job["out"]. Raises CalibrationError."""
    from transformers import AutoTokenizer

    calibration = Calibration.model_validate(job["calibration"])
    perplexity = Perplexity.model_validate(job["perplexity"])
    sets = {name: PromptSet.model_validate(value) for name, value in job["prompt_sets"].items()}
    tokenizer = AutoTokenizer.from_pretrained(job["checkpoint"])
    print(f"calibrate: reading {', '.join(sets)}", flush=True)
    texts = {name: "\n\n".join(documents(name, sets[name])) for name in perplexity.texts}
    prompts = documents(calibration.prompts, sets[calibration.prompts])
    dialogue = sets[calibration.prompts].dialogue
    if calibration.chat_template:
        prompts = [render(tokenizer, prompt, dialogue) for prompt in prompts]
    rows, used = pack(tokenizer, prompts, calibration)
    share = overlap(texts.values(), used)
    if share > calibration.max_overlap:
        raise CalibrationError(
            f"calibration.max_overlap: {share:.2%} of the evaluation texts' {OVERLAP_WORDS}-word sequences occur in the "
            f"calibration samples, allowed are {calibration.max_overlap:.2%}. Use other prompts or another text."
        )
    samples = Samples(
        prompts=calibration.prompts,
        seed=calibration.seed,
        prompts_used=len(used),
        sha256=_ids_hash(rows),
        overlap=share,
        overlap_limit=calibration.max_overlap,
        ids=rows,
        coverage=coverage.count(Path(job["checkpoint"]), rows),
    )
    samples.write(Path(job["out"]) / "samples.json")
    Texts(texts=[windows(tokenizer, name, text, perplexity) for name, text in texts.items()]).write(Path(job["out"]) / "texts.json")
    return {"overlap": share, "prompts_used": len(used)}


def documents(name: str, source: PromptSet) -> list[str]:
    """All documents of a prompt set, in its order. Raises CalibrationError if it is missing, changed or empty."""
    found = list(_local(name, source) if source.path is not None else _hub(name, source))
    first = source.first or 0
    chosen = found[first : first + source.documents if source.documents else None]
    chosen = [text for text in chosen if text.strip()]
    if not chosen:
        raise CalibrationError(f"prompt set {name!r}: no text left ({len(found)} documents, first={first}).")
    return chosen


def _local(name: str, source: PromptSet) -> Iterator[str]:
    path = Path(str(source.path))
    if not path.is_file():
        raise CalibrationError(f"prompt set {name!r}: path: no file {path}.")
    digest = hash_file(path, path.name).sha256
    if digest != source.sha256:
        raise CalibrationError(
            f"prompt set {name!r}: {path} has SHA-256 {digest}, calibration/{name}.yaml says {source.sha256}. "
            "The file changed: restore it, or write the new hash if the change is meant."
        )
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            text = stream.read()
    else:
        text = path.read_text(encoding="utf-8")
    if ".jsonl" not in path.suffixes:
        yield text
        return
    for number, line in enumerate(filter(None, text.split("\n")), 1):
        try:
            yield str(json.loads(line)[source.field])
        except (ValueError, KeyError, TypeError) as error:
            raise CalibrationError(f"{path}:{number}: expected a JSON object with {source.field!r}: {error!r}") from error


def _hub(name: str, source: PromptSet) -> Iterator[str]:
    from datasets import load_dataset

    try:
        rows = load_dataset(source.repo, source.config, data_dir=source.data_dir, split=source.split, revision=source.revision)
    except Exception as error:  # the library raises a different class for each way to be offline
        raise CalibrationError(
            f"prompt set {name!r}: hub data set {source.repo} at {source.revision} cannot be loaded "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}). Fetch it on a machine with a "
            "network and bring HF_HOME here, or use a local file."
        ) from error
    if source.field not in rows.column_names:
        raise CalibrationError(f"prompt set {name!r}: field {source.field!r} not in {rows.column_names}.")
    yield from (str(row) for row in rows[source.field])


def render(tokenizer: Any, prompt: str, dialogue: str | None) -> str:
    """One prompt through the checkpoint's chat template. Raises CalibrationError if it has none."""
    if tokenizer.chat_template is None:
        raise CalibrationError("calibration.chat_template: true, but the checkpoint has no chat template. Set it to false.")
    messages = turns(prompt) if dialogue == "hh-rlhf" else [{"role": "user", "content": prompt}]
    open_ended = messages[-1]["role"] == "user"
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_ended))


def turns(text: str) -> list[dict[str, str]]:
    """An HH-RLHF transcript ("\\n\\nHuman: ... \\n\\nAssistant: ...") as chat messages; an empty last turn is dropped."""
    parts = re.split(r"\n\n(Human|Assistant):", text)
    roles = {"Human": "user", "Assistant": "assistant"}
    messages = [{"role": roles[r], "content": c.strip()} for r, c in zip(parts[1::2], parts[2::2], strict=True)]
    messages = [message for message in messages if message["content"]]
    if not messages:
        raise CalibrationError(f"not an HH-RLHF transcript: {text[:60]!r}. Expected turns that begin with 'Human:'.")
    return messages


def pack(tokenizer: Any, prompts: list[str], calibration: Calibration) -> tuple[list[list[int]], list[str]]:
    """Seeded choice of prompts, each cut to `tokens` ids, packed end to end into full rows; also the prompts used."""
    order = random.Random(calibration.seed).sample(range(len(prompts)), len(prompts))
    need = calibration.samples * calibration.tokens
    stream: list[int] = []
    used: list[str] = []
    for index in order:
        if len(stream) >= need:
            break
        ids = tokenizer(prompts[index], add_special_tokens=not calibration.chat_template)["input_ids"]
        stream.extend(ids[: calibration.tokens])
        used.append(prompts[index])
    if len(stream) < need:
        raise CalibrationError(
            f"calibration: {calibration.samples} samples of {calibration.tokens} tokens need {need} tokens, the "
            f"{len(prompts)} prompts of {calibration.prompts!r} give {len(stream)}. Ask for fewer samples or tokens."
        )
    rows = [stream[i : i + calibration.tokens] for i in range(0, need, calibration.tokens)]
    _require_variety(calibration.prompts, stream[:need])
    return rows, used


def _require_variety(name: str, stream: list[int]) -> None:
    """A quantizer that sees one token over and over learns nothing of the others. Raises CalibrationError."""
    token, count = Counter(stream).most_common(1)[0]
    if count > MOST_OF_ONE * len(stream):
        raise CalibrationError(
            f"prompt set {name!r}: token {token} makes up {count / len(stream):.0%} of the calibration rows, expected at most "
            f"{MOST_OF_ONE:.0%}. Use prompts like those that the model will serve."
        )


def windows(tokenizer: Any, name: str, text: str, perplexity: Perplexity) -> Text:
    """The text tokenized once and cut into non-overlapping windows; the tail that fills none is dropped."""
    encoded = tokenizer(text, verbose=False, return_offsets_mapping=True)
    ids, spans = encoded["input_ids"], encoded["offset_mapping"]
    size, bos = perplexity.window, perplexity.bos
    if bos == "every":
        if tokenizer.bos_token_id is None:
            raise CalibrationError("evaluate.perplexity.bos: 'every', but the tokenizer has no BOS token. Use 'first'.")
        if ids[:1] == [tokenizer.bos_token_id]:
            ids, spans = ids[1:], spans[1:]
        size -= 1
    starts = range(0, len(ids) - size + 1, size)[: perplexity.max_windows]
    rows = [ids[i : i + size] for i in starts]
    if not rows:
        raise CalibrationError(f"text {name!r}: {len(ids)} tokens do not fill one window of {perplexity.window}.")
    unscored = 0 if bos == "every" else 1
    scored_bytes = [len(text[spans[i + unscored][0] : spans[i + size - 1][1]].encode()) for i in starts]
    if bos == "every":
        rows = [[tokenizer.bos_token_id, *row] for row in rows]
    return Text(
        name=name,
        bos=bos,
        characters=len(text),
        tokens_dropped=len(ids) - len(rows) * size,
        sha256=_ids_hash(rows),
        windows=rows,
        bytes=scored_bytes,
    )


def overlap(texts: Iterable[str], prompts: list[str]) -> float:
    """Share of the texts' 13-word sequences that occur in the prompts; 0 when the texts are shorter than that."""
    seen = {gram for prompt in prompts for gram in _grams(prompt)}
    total = found = 0
    for text in texts:
        for gram in _grams(text):
            total += 1
            found += gram in seen
    return found / total if total else 0.0


def _grams(text: str) -> Iterator[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return zip(*(words[i:] for i in range(OVERLAP_WORDS)))  # noqa: B905 (the shifted copies differ in length)


def _ids_hash(rows: list[list[int]]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
