"""Quantizers: what they have in common, and the job of making one artifact; the table beside this,
one file per tool.

A tool's module has `quantize(spec, out) -> Outcome` and imports its heavy packages only inside.
What is possible at all says pipeline/quantizers/table.py; refusal.py holds a recipe against it
before any work."""

from __future__ import annotations

import fnmatch
import importlib
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.capabilities import IR
from pipeline.errors import QuantizeError, RecipeError
from pipeline.formats import layers, rounding
from pipeline.quantizers.table import OPENVINO, TOOLS, UNQUANTIZED, Tool
from pipeline.recipe import Recipe, Variant
from pipeline.recipe.parsing import nearest
from pipeline.records import Rounding, Samples, read
from pipeline.source import coverage
from pipeline.source.checkpoint import linear_shapes, output_layer

OUTPUT = "lm_head"  # as recipes call the output projection
RATIO_SLACK = 0.1  # whole layers are chosen, so a small model cannot meet a ratio exactly


@dataclass(frozen=True)
class Spec:
    """What a tool is to do. `keep` are the names of the layers that stay in 16 bits, `int8` of
    those that get 8 where the others have 4; `exported` is the folder of the recipe's unquantized
    OpenVINO artifact, for tools that start from it."""

    variant: Variant
    source: Path
    samples: Samples
    keep: list[str]
    exported: Path | None = None
    int8: list[str] = field(default_factory=list)

    @property
    def output(self) -> str:
        """The output projection's name."""
        return output_layer(self.source)

    def rows(self) -> list[dict[str, list[int]]]:
        """The calibration set as tools take it."""
        return [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in self.samples.ids]


@dataclass(frozen=True)
class Outcome:
    """What a tool did: every setting as it was really used, and notes worth a reviewer's eye."""

    resolved: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def tool(variant: Variant) -> Tool:
    return (
        UNQUANTIZED[variant.served_by.artifact_format]
        if variant.quantizer is None
        else TOOLS[variant.quantizer]
    )


def simulated(variant: Variant) -> tuple[int, int] | None:
    """Bits and group size of what is rounded but stored as floats; None for all that is stored as
    it was rounded."""
    return (
        (int(variant.weights.removeprefix("int")), variant.groups_of)
        if tool(variant).simulated
        else None
    )


def job(
    variant: Variant, source: Path, samples: Path, exported: Path | None, out: Path
) -> dict[str, Any]:
    """What `work` takes, as JSON: `samples` is a Samples record, `exported` as in Spec."""
    return {
        "variant": variant.model_dump(),
        "checkpoint": str(source),
        "samples": str(samples),
        "exported": str(exported) if exported else None,
        "out": str(out),
    }


def keeping(variant: Variant, source: Path) -> list[str]:
    """The layers that `keep` means, by name. Raises RecipeError for a pattern that no layer has.

    `first` and `last` are the first and the last decoder block; `lm_head` the output projection,
    where it has weights of its own; everything else is a name, with * for any part of it."""
    words = variant.keep or []
    inside = [word for word in words if word != OUTPUT]
    return [*_named("keep", inside, source), *([output_layer(source)] if OUTPUT in words else [])]


def in_int8(variant: Variant, source: Path) -> list[str]:
    """The layers that `int8_layers` means, in the words of `keep`, less those that are kept. Raises
    RecipeError likewise.

    The output projection is none of them: OpenVINO's has 8 bits already, vLLM serves it in 16 only.
    """
    kept = keeping(variant, source)
    return [
        name
        for name in _named("int8_layers", variant.int8_layers or [], source)
        if name not in kept
    ]


def _named(key: str, words: list[str], source: Path) -> list[str]:
    names = list(linear_shapes(source))
    blocks = list(dict.fromkeys(layers.block(name) for name in names))
    special = {"first": f"{blocks[0]}.*", "last": f"{blocks[-1]}.*"}
    chosen: list[str] = []
    for word in words:
        matched = [name for name in names if fnmatch.fnmatchcase(name, special.get(word, word))]
        if not matched:
            raise RecipeError(
                f"{key}: found {word!r}, which no layer is called; expected 'first',"
                f" 'last'{f', {OUTPUT!r}' if key == 'keep' else ''} or a name such as {names[0]!r},"
                f" with * for any part of it.{nearest(word, [*special, *names])}"
            )
        chosen += matched
    return list(dict.fromkeys(chosen))


def starts_from(recipe: Recipe, variant: Variant) -> str | None:
    """The variant whose artifact another one is made from: one export serves all of NNCF's."""
    return (
        recipe.baseline(variant)
        if variant.quantizer is not None and tool(variant) is OPENVINO
        else None
    )


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Worker verb: quantizes into job["out"] and counts what came out. Raises QuantizeError,
    ArtifactError."""
    variant = Variant.model_validate(job["variant"])
    made_by = tool(variant)
    source, out = Path(job["checkpoint"]), Path(job["out"])
    exported = Path(job["exported"]) if job["exported"] else None
    samples = read(Path(job["samples"]), Samples)
    spec = Spec(
        variant, source, samples, keeping(variant, source), exported, in_int8(variant, source)
    )
    outcome: Outcome = importlib.import_module(made_by.module).quantize(spec, out)
    accepted: set[str] = {"bf16"} if made_by.simulated else {variant.weights}
    ratio = 1.0 if variant.ratio is None else variant.ratio
    if ratio < 1:
        accepted.add("bf16" if variant.backup == "none" else "int8")
    stored = layers.inspect(out, variant.engine)
    counted = layers.compare(stored, source, accepted, frozenset(spec.keep), frozenset(spec.int8))
    if (
        spec.output in spec.keep
        and variant.served_by.artifact_format == IR
        and not layers.ir_output_is_float(out, spec.output)
    ):
        raise QuantizeError(
            f"{made_by.answered_by} quantized {spec.output}, which the recipe keeps in 16 bits."
        )
    free = {name: layer for name, layer in stored.items() if name not in (*spec.keep, *spec.int8)}
    if ratio < 1 and (share := layers.share(free, variant.weights)) < ratio - RATIO_SLACK:
        raise QuantizeError(
            f"{made_by.answered_by} put {share:.0%} of the weights in {variant.weights}, the"
            f" recipe's ratio is {ratio:.0%}."
        )
    if len(counted.skipped) > variant.allow_skipped:
        raise QuantizeError(
            f"{made_by.answered_by} left {len(counted.skipped)} of {counted.expected} layers out of"
            f" {variant.weights}: {', '.join(counted.skipped[:5])}. Allowed are"
            f" {variant.allow_skipped} (allow_skipped)."
        )
    made = _rounding(variant, out)
    if variant.quantizer and made is None:
        raise QuantizeError(f"{made_by.answered_by} left no layer in {variant.weights}.")
    blind = coverage.notes(samples.coverage) if variant.quantizer else []
    return {
        "resolved": outcome.resolved,
        "rounding": made.model_dump() if made else None,
        "notes": [*([made_by.note] if made_by.note else []), *outcome.notes, *blind],
        "layers": counted.model_dump(),
        "stored_types": layers.stored_types(stored),
        "weights_by_type": layers.weights_by_type(out, variant.engine),
        "versions": {name: version(name) for name in made_by.packages},
    }


def _rounding(variant: Variant, out: Path) -> Rounding | None:
    """By the files, which say nothing of what is only simulated."""
    if (how := simulated(variant)) is None:
        return rounding.read(out, variant.engine, variant.weights)
    bits, group = how
    return Rounding(
        format="simulated",
        bits=bits,
        group_size=group,
        symmetric=False,
        outside=layers.outside(out, variant.engine),
    )
