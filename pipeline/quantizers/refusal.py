"""Is what a variant asks for made and served? Decided from the table, before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import RecipeError
from pipeline.quantizers import in_int8, keeping, tool
from pipeline.quantizers.families import UNSERVED
from pipeline.quantizers.table import CPU, CUDA, REFUSED, SERVED, TOOLS, Refused, Served, Values
from pipeline.recipe import Recipe, Variant, rungs
from pipeline.recipe.ladder import words
from pipeline.recipe.parsing import nearest
from pipeline.source.checkpoint import linear_shapes
from pipeline.source.files import config

DEFINING = ("activations", "format")  # settings without a default: a line that has one is about it
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # into one matrix each, by vLLM


def refuse(file: Path, recipe: Recipe, device: str | None = None) -> None:
    """Raises RecipeError for every variant that no tool makes or no engine serves, with the nearest
    that is.

    `device` is where the engines run; None asks only whether it is served on any.
    """
    wrong = [
        f"{file}: variants.{name}.{reason if variant.ladder is None else _of_rung(rung, reason)}"
        for name, variant in recipe.variants.items()
        for rung in rungs(variant)
        if (reason := problem(rung, device))
    ]
    if wrong:
        raise RecipeError("\n".join(wrong))


def _of_rung(rung: Variant, reason: str) -> str:
    hint = (
        ""
        if rung.quantizer in TOOLS
        else " A word of a rung that is neither a key nor its value is taken for the quantizer."
    )
    return f"ladder: {words(rung)}: {reason}{hint}"


def problem(variant: Variant, device: str | None) -> str:
    """What is wrong with a variant, beginning with the key; empty if it is made and served."""
    quantizer = variant.quantizer
    if quantizer is None:
        return ""
    if quantizer not in TOOLS:
        return (
            f"quantizer: found {quantizer!r}, expected one of"
            f" {', '.join(TOOLS)}.{nearest(quantizer, TOOLS)}"
        )
    lines = [
        line
        for line in SERVED
        if line.quantizer == TOOLS[quantizer].method or line.quantizer == quantizer
    ]
    device = device and variant.served_by.device(device)
    there = [
        line
        for line in lines
        if line.engine == variant.engine and (device is None or device in line.devices)
    ]
    return (
        tried(variant, device)
        or _engine(variant, lines)
        or _weights(variant, lines, device)
        or _settings(variant, there)
    )


def _engine(variant: Variant, lines: list[Served]) -> str:
    engines = list(dict.fromkeys(line.engine for line in lines))
    if variant.engine in engines:
        return ""
    fits = dict.fromkeys(
        line.quantizer
        for line in SERVED
        if line.engine == variant.engine and not TOOLS[line.quantizer].simulated
    )
    return (
        f"quantizer: {variant.quantizer!r} artifacts are not served by {variant.engine!r}, expected"
        f" engine {' or '.join(engines)}. For {variant.engine!r} use quantizer {' or '.join(fits)}."
    )


def tried(variant: Variant, device: str | None) -> str:
    """What is known not to work, with its own reason."""
    for line in REFUSED:
        if _refuses(line, variant, device):
            key = next(iter(line.when))
            return (
                f"{key}: found {_yaml(getattr(variant, key))}; {line.why}{_on(line, device)}. Use"
                f" {line.use}."
            )
    return ""


def _refuses(line: Refused, variant: Variant, device: str | None) -> bool:
    quantizer = str(variant.quantizer)
    if (
        not {quantizer, TOOLS[quantizer].method} & set(line.quantizers)
        or line.engine != variant.engine
    ):
        return False
    if device is None and len(line.devices) == 1:
        return False  # served on another
    return (device is None or device in line.devices) and all(
        _asks(getattr(variant, key), allowed) for key, allowed in line.when.items()
    )


def _asks(given: Any, refused: Values) -> bool:
    return given is not None if refused is None else given in refused


def _on(line: Refused, device: str | None) -> str:
    return f" ({_runs_on(device)})" if device and len(line.devices) == 1 else ""


def _runs_on(device: str) -> str:
    """Where the engines run, and how that is changed; OpenVINO has no choice."""
    other = next(name for name in (CPU, CUDA) if name != device)
    return f"vLLM runs on {device!r} here; with QUANTGATE_DEVICE={other} on {other!r}"


def _weights(variant: Variant, lines: list[Served], device: str | None) -> str:
    there = [line for line in lines if line.engine == variant.engine]
    known = list(
        dict.fromkeys(line.weights for line in there if device is None or device in line.devices)
    )
    if variant.weights in known:
        return ""
    engine = f"{variant.engine!r} on {device!r}" if device else repr(variant.engine)
    elsewhere = (
        f" ({_runs_on(device)})"
        if device and any(line.weights == variant.weights for line in there)
        else ""
    )
    return (
        f"weights: found {variant.weights!r}; of {variant.quantizer!r}, {engine} serves"
        f" {' or '.join(known)} only{elsewhere}. Use weights {known[-1]}."
    )


def _settings(variant: Variant, there: list[Served]) -> str:
    """Against the line that asks for the least changes: unknown keys first, then values that it
    does not take."""
    least = min(
        (_differences(variant, line) for line in there if line.weights == variant.weights), key=len
    )
    return least[0] if least else ""


def _differences(variant: Variant, line: Served) -> list[str]:
    """A sentence for each setting that the line does not take."""
    differences = []
    for key, value in variant.settings().items():
        if key not in line.settings:
            has = ", ".join(line.settings) or "none"
            differences.append(
                f"{key}: {variant.quantizer!r} has no such setting for {line.weights} weights"
                f"{_with(line)}. It has: {has}. Remove it."
            )
        elif (allowed := line.settings[key]) is not None and value not in allowed:
            differences.append(
                f"{key}: found {_yaml(value)}, expected {_choice(allowed)}. Use"
                f" {_yaml(allowed[0])}."
            )
    differences += [
        f"{key}: missing, expected {_choice(allowed)}. Add {key}: {_yaml(allowed[0])}."
        for key, allowed in line.settings.items()
        if key in DEFINING and allowed is not None and getattr(variant, key) is None
    ]
    return differences


def _with(line: Served) -> str:
    given = {key: line.settings[key] for key in DEFINING if key in line.settings}
    return (
        f" with {' and '.join(f'{key} {_choice(values)}' for key, values in given.items())}"
        if given
        else ""
    )


def _choice(allowed: Values) -> str:
    return " or ".join(_yaml(value) for value in allowed or ())


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def refuse_model(
    file: Path, name: str, variant: Variant, source: Path, device: str | None = None
) -> None:
    """Raises RecipeError where the source's family is known not to be made or served so, or its
    shapes do not fit."""
    family = config(source).get("model_type")
    if line := unserved(variant, family, device):
        why = f"{line.why}{_on(line, device)}"
        raise RecipeError(
            f"{file}: variants.{name}: the model's family is {family!r}; {why}. Use {line.use}."
        )
    refuse_shapes(file, name, variant, source)


def unserved(variant: Variant, family: str | None, device: str | None) -> Refused | None:
    """Why a model of this family (model_type of config.json) is not made or served so; None if it
    is, or was not tried."""
    for line in UNSERVED:
        anyhow = not line.quantizers and line.engine == variant.engine
        if family in line.models and (
            anyhow or (variant.quantizer and _refuses(line, variant, device))
        ):
            return line
    return None


def refuse_shapes(file: Path, name: str, variant: Variant, source: Path) -> None:
    """Raises RecipeError for layers that cannot be named so, or whose shape the variant's group
    size or engine cannot take."""
    if variant.quantizer is None:
        return
    kept, int8 = _named_layers(file, name, variant, source)
    if variant.weights == "int8" and variant.group_size is None:
        return
    group = variant.groups_of
    shapes = {layer: shape for layer, shape in linear_shapes(source).items() if layer not in kept}
    uneven = {
        layer: shape
        for layer, shape in shapes.items()
        if group > 0 and shape[1] % group and layer not in int8
    }
    if uneven:
        sizes = sorted({shape[1] for shape in shapes.values()})
        fits = [
            size
            for size in (128, 64, 32, 16, 8, 4)
            if all(columns % size == 0 for columns in sizes)
        ]
        raise RecipeError(
            f"{file}: variants.{name}.group_size: found {group}, which does not divide the input"
            f" features of {len(uneven)} of {len(shapes)} layers: {_list(uneven)}."
            f" {'Use ' + str(fits[0]) if fits else 'Use -1 (one group per channel)'}."
        )
    engine = variant.served_by
    narrow = {
        layer: shape
        for layer, shape in shapes.items()
        if any(size % engine.divisor for size in shape)
    }
    if narrow and not tool(variant).simulated:
        raise RecipeError(
            f"{file}: variants.{name}: {engine.name} serves quantized layers whose features are"
            f" multiples of {engine.divisor}; not so for {len(narrow)} of {len(shapes)} layers:"
            f" {_list(narrow)}. Use engine openvino for this model."
        )


def _named_layers(
    file: Path, name: str, variant: Variant, source: Path
) -> tuple[list[str], list[str]]:
    """What `keep` and `int8_layers` mean. Raises RecipeError for a name of no layer, half of what
    is fused, and all layers."""
    try:
        kept, int8 = keeping(variant, source), in_int8(variant, source)
    except RecipeError as error:
        raise RecipeError(f"{file}: variants.{name}.{error}") from error
    layers = list(linear_shapes(source))
    for key, named in (("keep", kept), ("int8_layers", int8)):
        engine = variant.served_by
        if engine.fuses and (half := _half_named(named, layers)):
            raise RecipeError(
                f"{file}: variants.{name}.{key}: {engine.name} fuses {half[0]} with"
                f" {', '.join(half[1:5])}, so that all of them are named or none. Name them all."
            )
    if not set(layers) - {*kept, *int8}:
        key = "int8_layers" if int8 else "keep"
        raise RecipeError(
            f"{file}: variants.{name}.{key}: found {getattr(variant, key)}, which leaves none of"
            f" {len(layers)} layers for {variant.weights}. Name fewer."
        )
    return kept, int8


def _half_named(named: list[str], layers: list[str]) -> list[str]:
    """A named layer and those that vLLM multiplies in one with it, where they are not named; empty
    if there is none."""
    for layer in named:
        others = [name for name in _fused_with(layer, layers) if name not in named]
        if others:
            return [layer, *others]
    return []


def _fused_with(layer: str, layers: list[str]) -> list[str]:
    """All experts of a block are one layer to vLLM, and so are some projections."""
    block, experts, _ = layer.partition(".experts.")
    if experts:
        return [name for name in layers if name.startswith(block + experts)]
    head, _, last = layer.rpartition(".")
    partners = next((group for group in FUSED if last in group), ())
    return [name for part in partners if (name := f"{head}.{part}") in layers]


def _list(shapes: dict[str, tuple[int, int]]) -> str:
    shown = [f"{layer} {list(shape)}" for layer, shape in list(shapes.items())[:4]]
    return ", ".join(shown) + (", ..." if len(shapes) > 4 else "")
