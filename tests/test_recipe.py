from __future__ import annotations

import copy
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import paths, quantizers, reading, recipe
from pipeline.errors import RecipeError
from pipeline.planning import index
from pipeline.quantizers import refusal
from pipeline.recipe import parsing
from tests.conftest import ROOT
from tests.malformed import places

TINY = (ROOT / "recipes" / "tiny.yaml").read_text()


def load(folder: Path, text: str) -> recipe.Recipe:
    paths.recipe("tiny").write_text(text)
    loaded = recipe.load("tiny")
    refusal.refuse(paths.recipe("tiny"), loaded, "cpu")
    return loaded


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_loads_and_is_possible(root: Path, path: Path) -> None:
    loaded = recipe.load(path.stem)
    refusal.refuse(path, loaded, "cpu")
    for name in {loaded.calibration.prompts, *loaded.evaluate.perplexity.texts}:
        recipe.load_prompt_set(name)


def test_params_yaml_is_in_date(root: Path) -> None:
    index.check()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "samples:",
            "sample:",
            [
                "calibration.sample",
                "unknown key",
                "Did you mean 'samples'?",
                "calibration.samples: missing",
            ],
        ),
        (
            "samples: 64",
            "samples: many",
            ["calibration.samples", "found 'many' (str)", "valid integer"],
        ),
        ("samples: 64", "samples: 0", ["calibration.samples", "found 0", "greater than 0"]),
        (
            "engine: vllm, quantizer: gptq",
            "engine: vlm, quantizer: gptq",
            ["gptq-int4.engine", "Did you mean 'vllm'?"],
        ),
        (
            "quantizer: gptq",
            "quantizer: gptqq",
            ["variants.gptq-int4.quantizer", "found 'gptqq'", "Did you mean 'gptq'?"],
        ),
        (
            "engine: vllm, quantizer: gptq",
            "engine: openvino, quantizer: gptq",
            ["engine: found 'openvino'", "quantizer openvino"],
        ),
        (
            "engine: openvino, quantizer: openvino, weights: int8",
            "engine: vllm, quantizer: openvino, weights: int8",
            ["not served by 'vllm'", "use quantizer neural-compressor or gptq"],
        ),
        (
            "quantizer: awq",
            "quantizer: awq, keep: last",
            ["awq-int4.keep: found 'last' (str)", "As a list of one: [last]."],
        ),
        (
            "quantizer: awq",
            "quantizer: awq, int8_layers: [last]",
            [
                "awq-int4.int8_layers: found ['last']",
                "no CPU kernel for 8-bit weights alone",
                "Use quantizer compressed-tensors",
            ],
        ),
        (
            "weights: int4, group_size: 128}\n  awq",
            "weights: int8}\n  awq",
            ["weights: found 'int8'", "Use weights int4"],
        ),
        (
            "quantizer: gptq, weights: int4",
            "quantizer: gptq, weights: int4, symmetric: false",
            ["symmetric: found false"],
        ),
        (
            "quantizer: gptq, weights: int4",
            "quantizer: gptq, weights: int4, desc_act: true",
            ["Use desc_act false"],
        ),
        (
            "quantizer: gptq, weights: int4",
            "quantizer: gptq, weights: int4, ratio: 0.8",
            ["ratio: 'gptq' has no such setting"],
        ),
        (
            "weights: int8}",
            "weights: int8, group_size: 64}",
            ["ov-int8.group_size", "no such setting", "Remove it"],
        ),
        (
            "ov-bf16: {engine: openvino}",
            "ov-bf16: {engine: openvino, weights: int8}",
            ["ov-bf16", "need a quantizer"],
        ),
        ("  vllm-bf16: {engine: vllm}\n", "", ["no", "engine 'vllm'", "vllm-bf16: {engine: vllm}"]),
        (
            "quantizer: gptq, weights: int4, group_size: 128",
            "quantizer: gptq, weights: int4, group_size: 0",
            ["found 0"],
        ),
        (
            "quantizer: gptq, weights: int4, group_size: 128",
            "quantizer: gptq, weights: int4, group_size: 96",
            ["Use 128"],
        ),
        ("int8: 1.005", "int16: 1.005", ["gate.perplexity_ratio.int16", "found 'int16'"]),
        (
            "{bf16: 0.01, int8: 0.01",
            "{bf16: 0.01",
            ["gate.accuracy_drop has no limit for 'int8'", "'ov-int8'"],
        ),
        (
            "mean_kl: {bf16: 0.001, int8",
            "mean_kl: {int8",
            ["gate.mean_kl has no limit for 'bf16'", "'ov-bf16'"],
        ),
        (
            "  p99_kl:",
            "  p95_kl:",
            ["gate.p95_kl: unknown key", "Did you mean 'p99_kl'?", "gate.p99_kl: missing"],
        ),
        (
            "top1_agreement: {bf16: 0.93",
            "top1_agreement: {bf16: 1.0",
            ["gate.top1_agreement.bf16", "less than 1"],
        ),
        (
            "task_drop: {bf16: 0.03",
            "task_drop: {bf16: 0",
            ["gate.task_drop.bf16", "greater than 0"],
        ),
        (
            "gate:\n",
            "gate:\n  length_ratio: [1.1, 1.2]\n",
            ["length_ratio: found [1.1, 1.2]", "a value below 1 and one above"],
        ),
        (
            "gate:\n",
            "gate:\n  on_inconclusive: extend\n",
            ["on_inconclusive", "needs evaluate.extend_to"],
        ),
        ("  price: {per_hour: 0.10}", "goal: cheapest", ["goal", "needs benchmark.price"]),
        ("gate:\n", "goal: tiniest\ngate:\n", ["goal", "found 'tiniest'", "'smallest'"]),
        (
            "positions: 16320",
            "positions: 16",
            ["evaluate.divergence.positions", "greater than or equal to 512"],
        ),
        (
            "windows: 135",
            "windows: 8",
            ["evaluate.divergence.windows", "greater than or equal to 16"],
        ),
        (
            "  task_path",
            "  extend_to: {world_fact: 100}\n  task_path",
            ["extend_to: found task 'world_fact'", "world_facts"],
        ),
        (
            "  task_path",
            "  extend_to: {world_facts: 100}\n  task_path",
            ["extend_to: task", "cannot grow"],
        ),
        ("clusters: {world_facts", "clusters: {world_fact", ["clusters: found task 'world_fact'"]),
        (
            "world_facts: all",
            "world_facts: many",
            ["world_facts: found 'many' (str), expected a number of items, ", "or 'all'"],
        ),
        (
            "world_facts: all",
            "world_facts: {items: 9, filtre: x}",
            ["world_facts.filtre: unknown key", "Did you mean 'filter'?"],
        ),
        (
            "world_facts: all",
            "world_facts: {metric: acc}",
            ["evaluate.tasks.world_facts.items: missing"],
        ),
        ("world_facts: all", "world_facts: 5, world_facts: 9", ["duplicate key"]),
        (
            "max_model_len: 512",
            "max_model_len: 128",
            ["serve.max_model_len of at least 257, found 128"],
        ),
        (
            "path: recipes/tiny/checkpoint",
            "repo: a/b, revision: main",
            ["model.revision", "found 'main'", "40 hex digits"],
        ),
        (
            "path: recipes/tiny/checkpoint",
            "path: ~/checkpoint",
            ["model.path: found '~/checkpoint'", "~ is not expanded"],
        ),
        ("ov-int8:", "reference:", ["variant name 'reference'", "Use another"]),
        (
            "samples: 64",
            "samples: 1000000000000000000000",
            ["calibration.samples", "less than or equal to 1000000"],
        ),
        (
            "mean_kl: {bf16: 0.001",
            "mean_kl: {bf16: 1e308",
            ["gate.mean_kl.bf16", "less than or equal to 20"],
        ),
        (
            "gate:\n",
            "gate:\n  confidence: 0.5000001\n",
            ["gate.confidence", "greater than or equal to 0.8"],
        ),
        (
            "window: 256",
            "window: 1000000000000",
            ["evaluate.perplexity.window", "less than or equal to 10000000"],
        ),
        (
            "  prompt_tokens: 64",
            "  prompt_tokens: 1e308",
            ["benchmark.prompt_tokens: found 1e+308 (float)"],
        ),
        (
            "world_facts: all",
            f"world_facts: {10**21}",
            ["world_facts: found 1000000000000000000000 (int), expected"],
        ),
        (
            "gate:\n",
            "gate:\n  length_ratio: [1.0e-300, 1.0e+308]\n",
            ["gate.length_ratio", "less than or equal to 10"],
        ),
        (
            "accuracy_drop: {bf16: 0.01",
            "accuracy_drop: {bf16: 0.99",
            ["gate.accuracy_drop.bf16", "less than or equal to 0.5"],
        ),
        (
            "max_num_seqs: 64",
            "max_num_seqs: 4096",
            ["serve: max_num_batched_tokens: found 2048", "max_num_seqs (4096)"],
        ),
        ("path: recipes/tiny/checkpoint", "path: ''", ["model.path: found '', expected a path"]),
        ("[tiny-text]", "[]", ["evaluate.perplexity.texts", "Expected at least 1 of them"]),
        ("path: recipes/tiny/checkpoint", "repo: a/b", ["'repo' needs 'revision'"]),
        ("ov-int8:", "ov.int8:", ["variant name 'ov.int8'"]),
        ("ov-int8:", "ov-bf16:", ["not valid YAML", "duplicate key"]),
        ("requests: 16", "requests: 2", ["benchmark", "requests: found 2, expected at least 8"]),
        (
            "requests: 16",
            "request: 16",
            ["benchmark.request: unknown key", "Did you mean 'requests'?"],
        ),
        (
            "ttft_ms: 40",
            "ttfs_ms: 40",
            ["benchmark.slo.ttfs_ms: unknown key", "Did you mean 'ttft_ms'?"],
        ),
        (
            "ttft_ms: 40, tpot_ms: 15",
            "",
            ["benchmark.slo", "give at least one of ttft_ms, tpot_ms, e2e_ms"],
        ),
        (
            "concurrency: [1, 4, 8]",
            "concurrency: [4, 1, 8]",
            ["expected each number once, lowest first"],
        ),
        (
            "  prompt_tokens: 64",
            "  prompt_tokens: 64\n  lengths: natural",
            ["'natural' needs 'prompts'"],
        ),
        (
            "per_hour: 0.10",
            "per_hour: 0.10, currency: euro",
            ["benchmark.price.currency: found 'euro'"],
        ),
        (
            "price: {per_hour: 0.10",
            "price: {per_hour: 0.10, utilisations: [80]",
            ["A fraction is expected: 0.8 for 80 %"],
        ),
        (
            "gate:\n",
            "gate:\n  speedup: 1.5\n",
            ["gate.speedup: found 1.5", "for instance {int8: 1.5, int4: 1.5}"],
        ),
        (
            "{engine: openvino}",
            "{engine: openvino, target: gpu}",
            ["target: found 'gpu'", "'cpu', 'cuda' or 'xpu'"],
        ),
        ("  p99_kl", "  speedup: {int8: 1.2}\n  p99_kl", ["gate.speedup has no limit for 'int4'"]),
    ],
)
def test_bad_recipe_gives_one_clear_error(
    project: Path, old: str, new: str, expected: list[str]
) -> None:
    assert TINY.count(old) >= 1
    with pytest.raises(RecipeError) as error:
        load(project, TINY.replace(old, new, 1))
    for words in ["recipes/tiny.yaml", *expected]:
        assert words in str(error.value)


WRONG = [
    None,
    {},
    [],
    "",
    "abc",
    True,
    -1,
    1.5,
    math.nan,
    [None],
    {1: 2},
    {"a": None},
    10**21,
    -(10**21),
    1e308,
    -1e308,
]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_no_sentence_is_the_librarys(wrong: Any) -> None:
    whole = reading.yaml_value(TINY, "tiny", RecipeError)
    said = []
    for *way, last in filter(None, places(whole)):
        changed = copy.deepcopy(whole)
        reduce(lambda node, key: node[key], way, changed)[last] = wrong
        try:
            recipe.Recipe.model_validate(changed)
        except ValidationError as error:
            said += [parsing.describe("mine.yaml", recipe.Recipe, item) for item in error.errors()]
    assert len(said) > 20
    assert not [
        line
        for line in said
        if re.search(
            r"should|after validation|dictionary|NoneType|constrained|As a list of one: \[\]", line
        )
    ]
    hints = [line for line in said if "A limit for each precision" in line]
    assert bool(hints) == (type(wrong) in (int, float))


def numbers(schema: Any, way: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number that a JSON schema takes, by the way to it."""
    if isinstance(schema, dict) and schema.get("type") in ("integer", "number"):
        yield way, schema
    for key, part in (
        schema.items()
        if isinstance(schema, dict)
        else enumerate(schema)
        if isinstance(schema, list)
        else ()
    ):
        yield from numbers(part, f"{way}.{key}")


def test_no_number_is_without_a_least_and_a_most() -> None:
    found = dict(numbers(recipe.Recipe.model_json_schema()))
    assert len(found) > 40
    for bounds in ({"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}):
        assert not [way for way, said in found.items() if not bounds & said.keys()]
    most = [said.get("maximum", said.get("exclusiveMaximum")) for said in found.values()]
    assert max(most) <= 10**13


def test_an_empty_recipe_is_told_what_it_needs(project: Path) -> None:
    with pytest.raises(
        RecipeError,
        match=r"tiny\.yaml: empty. Expected the keys model, calibration, .*a copy of another",
    ):
        load(project, "# nothing yet\n")
    with pytest.raises(RecipeError, match=r"variants: found \{\}.*Expected at least 1 of them"):
        load(project, TINY[: TINY.index("variants:")] + "variants: {}\n")


@pytest.mark.parametrize("name", ["../tiny", "a/b", "../recipes/tiny"])
def test_a_name_is_no_way_out_of_its_folder(project: Path, name: str) -> None:
    for kind, load_it in ((paths.recipe, recipe.load), (paths.prompt_set, recipe.load_prompt_set)):
        there = kind(name)
        there.parent.mkdir(parents=True, exist_ok=True)
        if not there.exists():
            there.write_text(
                TINY if kind is paths.recipe else Path("calibration/tiny-text.yaml").read_text()
            )
        with pytest.raises(RecipeError, match="Known: "):
            load_it(name)


def test_a_missing_hash_is_printed_ready_to_paste(project: Path) -> None:
    path = Path("calibration/tiny-text.yaml")
    whole = path.read_text()
    line = next(line for line in whole.splitlines(keepends=True) if line.startswith("sha256"))
    path.write_text(whole.replace(line, ""))
    with pytest.raises(RecipeError, match=f"Add: {line.strip()}$"):
        recipe.load_prompt_set("tiny-text")


@pytest.mark.parametrize(
    "make",
    [
        Path.mkdir,
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path.name),
    ],
)
def test_what_is_there_and_no_file_is_not_called_missing(
    project: Path, make: Callable[[Path], object]
) -> None:
    for path, load_it in (
        (paths.recipe("odd"), recipe.load),
        (paths.prompt_set("odd"), recipe.load_prompt_set),
    ):
        make(path)
        with pytest.raises(
            RecipeError,
            match=r"odd\.yaml: (is a folder or no regular file|cannot be read|no such file)",
        ):
            load_it("odd")


def test_unknown_recipe_names_the_nearest(root: Path) -> None:
    with pytest.raises(RecipeError, match="Did you mean 'tiny'"):
        recipe.load("tinny")


def test_old_tool_names_are_answered_by_their_successor(project: Path) -> None:
    text = TINY.replace("quantizer: gptq", "quantizer: auto-gptq").replace(
        "quantizer: awq", "quantizer: autoawq"
    )
    loaded = load(project, text)
    for name in ("gptq-int4", "awq-int4"):
        row = quantizers.tool(loaded.variants[name])
        assert row.answered_by == "GPTQModel"
        assert "end of life" in row.note


def test_index_follows_a_new_recipe(project: Path) -> None:
    Path("recipes/other.yaml").write_text(TINY)
    with pytest.raises(RecipeError, match="quantgate index"):
        index.check()
    assert index.write()
    index.check()
    assert "other--gptq-int4" in index.PARAMS.read_text()


def test_recipe_name_that_dvc_could_not_select_is_refused(project: Path) -> None:
    Path("recipes/a--b.yaml").write_text(TINY)
    with pytest.raises(RecipeError, match="double dash"):
        recipe.names()


def test_schema_describes_every_section() -> None:
    assert (ROOT / "recipes" / "recipe.schema.json").read_text() == recipe.schema()
    schema = json.loads(recipe.schema())
    assert set(schema["required"]) == {"model", "calibration", "variants"}
    assert schema["additionalProperties"] is False


def test_a_variants_own_kv_cache_goes_before_the_recipes(project: Path) -> None:
    text = TINY.replace(
        "quantizer: openvino, weights: int8}", "quantizer: openvino, weights: int8, kv_cache: u8}"
    )
    loaded = load(project, text.replace("serve: {", "serve: {kv_cache: bf16, "))
    assert loaded.serve_for("ov-int8") == loaded.serve.model_copy(update={"kv_cache": "u8"})
    assert loaded.serve_for("ov-int4").kv_cache == "bf16"
