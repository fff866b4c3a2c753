"""`quantgate init`: a recipe for a model, with comments and the limits that suit its size."""

from __future__ import annotations

import math
import re
import textwrap
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pipeline import paths, reading
from pipeline import recipe as recipes
from pipeline.errors import CheckpointError, RecipeError
from pipeline.planning import index, usual_variants
from pipeline.quantizers import refusal
from pipeline.recipe import Recipe, defaults
from pipeline.recipe.parsing import describe
from pipeline.records import write_text
from pipeline.runtime import environments
from pipeline.source import checkpoint, files, lengths

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
LOOKED_AT = ["config.json", "tokenizer_config.json", "chat_template.jinja"]
WIDTH = 130
HEAD = """\
# yaml-language-server: $schema=recipe.schema.json
# Written by quantgate init{size}. docs/recipe.md explains every key. evaluate, gate, serve and
# benchmark may be left out: what stands here is their default for a model of this size, as in
# recipes/{like}.yaml.
"""
COMMENTS = {
    "calibration": (
        "What the quantizers see: calibration/hh-rlhf.yaml. Prompts of your own: quantgate"
        " calibration add FILE"
    ),
    "evaluate": (
        "WikiText-2 in windows: 2048 tokens are those of the GPTQ (arXiv 2210.17323) and AWQ (arXiv"
        " 2306.00978) papers,\nshorter ones cost no more, and damage in few of many shows"
        " (gate.rare).\ntasks: items of each lm-eval task (docs/tasks.md). quantgate plan says how"
        " small a drop they can decide."
    ),
    "gate": (
        "How much worse an artifact may be than the source in float32, by the precision of its"
        " weights (docs/verdict.md)."
    ),
    "serve": "Under these settings artifacts are scored, timed and served.",
    "benchmark": (
        "The load (docs/speed.md): 16 requests of these lengths, with 1, 4 and 8 of them in flight."
    ),
    "variants": (
        "One artifact a line; each engine needs an unquantized one. quantgate quantizers: all that"
        " can be made."
    ),
}


class Known(NamedTuple):
    """What is known of a model: where it is, as a recipe says it, and a folder with its
    configuration."""

    model: dict[str, Any]
    folder: Path
    parameters: int | None


def init(model: str, path: str | None, revision: str | None, name: str | None) -> None:
    """Writes recipes/NAME.yaml and brings params.yaml in line. Raises RecipeError,
    CheckpointError."""
    paths.require_project()
    name = _named(model, name)
    known = _look(model, path, revision)
    text = _text(known)
    file = paths.recipe(name)
    refusal.refuse(file, _parsed(text, file), environments.device())
    write_text(file, text)
    try:
        index.write()
    except RecipeError:
        file.unlink()
        raise
    if known.parameters is None:
        print(
            "note: the number of parameters is not known here, so the limits are the strictest."
            " Give model.parameters."
        )
    print(f"{paths.recipe(name)}: written; params.yaml has its stages. Next: quantgate plan {name}")


def _parsed(text: str, file: Path) -> Recipe:
    """Raises RecipeError for a model that the usual settings do not fit."""
    try:
        return Recipe.model_validate(YAML(typ="safe", pure=True).load(text))
    except ValidationError as error:
        raise RecipeError(
            f"{describe(str(file), Recipe, error.errors()[0])}. Write the recipe by hand:"
            " docs/recipe.md"
        ) from error


def _named(given: str, name: str | None) -> str:
    name = name or re.sub(r"[^a-z0-9._]+", "-", Path(given).name.lower()).strip("-._")
    if not recipes.NAME.fullmatch(name):
        raise RecipeError(
            f"--name: found {name!r}, expected lower-case letters, digits, dots, underscores and"
            " single dashes."
        )
    if paths.recipe(name).exists():
        raise RecipeError(
            f"{paths.recipe(name)}: is there already. Edit it, or give another --name."
        )
    return name


def _look(given: str, path: str | None, revision: str | None) -> Known:
    """Raises RecipeError for no model, CheckpointError where the hub cannot be asked."""
    folder = paths.given(path or given)
    if path is not None or folder.is_dir():
        if revision is not None:
            raise RecipeError(
                f"--revision: found {revision!r}, which a folder has none of. Remove it, or name a"
                " hub repository."
            )
        if not folder.is_dir():
            raise RecipeError(
                f"--path: found {path!r}, which is no folder. Expected a local checkpoint."
            )
        where = folder.resolve()
        inside = where.relative_to(Path.cwd()) if where.is_relative_to(Path.cwd()) else where
        return Known({"path": str(inside)}, folder, _counted(folder))
    if not REPOSITORY.fullmatch(given):
        raise RecipeError(
            f"MODEL: found {given!r}. Expected a folder that is there, or a hub repository:"
            " OWNER/NAME."
        )
    fetched = checkpoint.download(given, revision or "main", LOOKED_AT)
    if not (fetched / "config.json").is_file():
        raise CheckpointError(
            f"{given} at {fetched.name}: no config.json. Expected a model in transformers' layout."
        )
    return Known(
        {"repo": given, "revision": fetched.name},
        fetched,
        _parameters_by_the_hub(given, fetched.name),
    )


def _counted(folder: Path) -> int:
    return sum(math.prod(tensor.shape) for tensor in checkpoint.source_tensors(folder).values())


def _parameters_by_the_hub(repo: str, revision: str) -> int | None:
    """None where the hub does not say, or is not there to be asked: then the rest came from its
    cache."""
    from huggingface_hub import HfApi

    try:
        weights = HfApi().model_info(repo, revision=revision).safetensors
    except (
        Exception
    ) as error:  # of whichever HTTP client it uses: their errors have no class in common
        print(
            f"note: {repo}: the hub cannot be asked for the number of parameters"
            f" ({type(error).__name__})"
        )
        return None
    return int(weights.total) if weights else None


def _text(known: Known) -> str:
    size = defaults.usual(known.parameters)
    about = (
        ""
        if known.parameters is None
        else f", for a model of {known.parameters / 1e6:,.1f} million parameters"
    )
    stream = StringIO()
    yaml = YAML()
    yaml.width = WIDTH
    yaml.dump(_recipe(known, size), stream)
    return HEAD.format(size=about, like=size.like) + stream.getvalue()


def _recipe(known: Known, size: defaults.Usual) -> CommentedMap:
    config = files.config(known.folder)
    _, positions = lengths.positions(config) or ("", defaults.LONGEST)
    model = known.model | ({"parameters": known.parameters} if known.parameters else {})
    calibration = {
        "prompts": "hh-rlhf",
        "samples": size.samples,
        "tokens": min(size.tokens, positions),
    }
    data: dict[str, Any] = {
        "model": model,
        "calibration": calibration | ({"chat_template": True} if _has_template(known) else {}),
    }
    if positions < defaults.LONGEST:
        data["serve"] = defaults.serve(size, positions)
    whole = defaults.filled(data)
    has_weights = "path" in known.model
    variants, refused = usual_variants.of(known.folder, config, size, has_weights)
    used = {variant.get("weights", "bf16") for variant in variants.values()}
    whole["gate"] = {
        key: (
            {w: limit for w, limit in value.items() if w in used}
            if isinstance(value, dict)
            else value
        )
        for key, value in whole["gate"].items()
    }
    sections = {key: whole[key] for key in ("model", "calibration", *defaults.SECTIONS)} | {
        "variants": variants
    }
    document = CommentedMap({key: _block(section) for key, section in sections.items()})
    left_out = [
        _wrapped(f"Left out: {', '.join(names)}: {why}") for why, names in _by_reason(refused)
    ]
    comments = COMMENTS | {"variants": "\n".join([COMMENTS["variants"], *left_out])}
    for key, comment in comments.items():
        document.yaml_set_comment_before_after_key(key, before=comment)
    return document


def _by_reason(refused: dict[str, str]) -> list[tuple[str, list[str]]]:
    by_reason: dict[str, list[str]] = {}
    for name, why in refused.items():
        by_reason.setdefault(why, []).append(name)
    return list(by_reason.items())


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH - 4, break_long_words=False, subsequent_indent="  ")


def _block(section: dict[str, Any]) -> CommentedMap:
    """A key on each line, what is in it on the same."""
    block = CommentedMap(section)
    for key, value in block.items():
        if isinstance(value, dict | list):
            block[key] = _flow(value)
    return block


def _flow(value: Any) -> Any:
    if not isinstance(value, dict | list):
        return value
    flow = (
        CommentedMap({k: _flow(v) for k, v in value.items()})
        if isinstance(value, dict)
        else CommentedSeq(value)
    )
    flow.fa.set_flow_style()
    return flow


def _has_template(known: Known) -> bool:
    settings = known.folder / "tokenizer_config.json"
    written = settings.is_file() and "chat_template" in reading.json_object(
        settings, CheckpointError
    )
    return written or (known.folder / "chat_template.jinja").is_file()
