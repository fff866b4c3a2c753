"""Malformed files: whatever users bring, a reader returns or raises an error of ours, soon.

`make test` draws the same few hundred files each time, in seconds; `make test-all` draws others,
for minutes (profiles of hypothesis, in tests/conftest.py)."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from pipeline import cli, reading, records
from pipeline.errors import QuantgateError, RecipeError, Tampered
from pipeline.formats import packing
from pipeline.planning import estimate
from pipeline.quantizers import refusal
from pipeline.recipe import Model, PromptSet, Recipe, parsing
from pipeline.records import artifact
from pipeline.release import signing
from pipeline.release.registries import oci
from pipeline.release.signoff import log
from pipeline.release.signoff.policy import Policy
from pipeline.source import checkpoint, lengths, prompts, tensors
from pipeline.source import files as source
from tests import malformed
from tests.build import write_checkpoint
from tests.conftest import ROOT

CHECKPOINT = ROOT / "recipes" / "tiny" / "checkpoint"
TINY = (ROOT / "recipes" / "tiny.yaml").read_bytes()
CONFIG: dict[str, Any] = json.loads((CHECKPOINT / "config.json").read_text())
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
ENTRIES = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "F16", "shape": [4], "data_offsets": [16, 24]},
}
WEIGHTS = malformed.framed(ENTRIES, 0, 24)
SLOW_S = 5.0  # of processor time, for a file of a few kB
LONGEST = 20_000  # characters of a message
ROWS: list[Any] = [
    {"text": "a"},
    {"text": [{"role": "user", "content": "b"}]},
    {"text": [1, 2.5, None, True]},
    {
        "text": [
            {"role": "assistant", "content": [{"type": "text", "text": "c"}], "tool_calls": [{}]}
        ]
    },
]


def refused(reader: Callable[[], object], *words: str) -> bool:
    """Whether it was. Any other exception than ours, a message without `words`, or one that took
    long ends the test."""
    start, error = time.process_time(), None
    try:
        reader()
    except QuantgateError as found:
        error = str(found)
        assert all(word in error for word in words), error
        assert len(error) < LONGEST
    assert time.process_time() - start < SLOW_S
    event("refused" if error else "read")
    return error is not None


@pytest.mark.parametrize("model", [Recipe, PromptSet, Policy])
@given(data=malformed.yaml_documents() | malformed.damaged(TINY))
def test_yaml(tmp_path: Path, model: type[Any], data: bytes) -> None:
    (tmp_path / "x.yaml").write_bytes(data)
    refused(lambda: parsing.parse(tmp_path / "x.yaml", model), "x.yaml")


@given(value=malformed.replaced(reading.yaml(ROOT / "recipes" / "tiny.yaml", RecipeError)))
def test_recipes_of_any_values(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(malformed.written(value))
    refused(lambda: refusal.refuse(path, parsing.parse(path, Recipe)), "x.yaml")


@given(
    data=malformed.values().map(malformed.written)
    | malformed.damaged((CHECKPOINT / "config.json").read_bytes())
)
def test_json(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.json").write_bytes(data)
    refused(lambda: reading.json_object(tmp_path / "x.json", RecipeError), "x.json")


@given(
    name=st.sampled_from(
        ["config.json", "tokenizer_config.json", "adapter_config.json", source.INDEX]
    ),
    value=malformed.replaced({**CONFIG, "rope_scaling": {"type": "linear", "factor": 2}})
    | malformed.values(),
)
def test_checkpoints_whose_files_say_anything(tmp_path: Path, name: str, value: Any) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / name).write_bytes(malformed.written(value))
    recipe = parsing.parse(ROOT / "recipes" / "tiny.yaml", Recipe).model_copy(
        update={"model": Model(path=str(tmp_path))}
    )

    def plan() -> None:
        checkpoint.check(tmp_path)
        lengths.refuse(Path("x.yaml"), recipe, tmp_path)
        estimate.of(recipe.named("none"))
        for variant in ("ov-int8", "gptq-int4"):
            refusal.refuse_model(Path("x.yaml"), variant, recipe.variants[variant], tmp_path)

    refused(plan)


@given(
    config=malformed.replaced(
        {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": 128,
            "config_groups": {"a": {"weights": {}}},
        }
    )
)
def test_artifacts_of_others_whose_configuration_says_anything(tmp_path: Path, config: Any) -> None:
    for method in (config, {**config, "quant_method": "compressed-tensors"}):
        (tmp_path / "config.json").write_bytes(malformed.written({"quantization_config": method}))
        refused(lambda: packing.packing(tmp_path))


@given(
    manifest=malformed.replaced(
        {
            "artifactType": oci.ARTIFACT,
            "layers": [{"digest": "x", "annotations": {oci.FILE_PATH: "y"}}],
        }
    )
)
def test_manifests_of_a_registry(manifest: Any) -> None:
    refused(lambda: oci._layers(malformed.written(manifest)))


@given(data=malformed.weights() | malformed.damaged(WEIGHTS))
def test_safetensors(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    refused(lambda: tensors.read_header(path), "x.safetensors")


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.txt", "x.txt.gz"])
@given(data=st.data())
def test_prompts(tmp_path: Path, name: str, data: st.DataObject) -> None:
    lines = malformed.json_lines(ROWS)
    path = tmp_path / name
    path.write_bytes(data.draw(malformed.zipped(lines) if name.endswith(".gz") else lines))
    digest = artifact.hash_file(path, name).sha256
    given = PromptSet(path=str(path), sha256=digest, field="text", licence="x", source="x")
    refused(lambda: prompts.documents("x", given))


@pytest.mark.parametrize(
    "kind", [records.Manifest, records.Evaluation, records.Verdict, records.Benchmark]
)
@given(data=st.data())
def test_records(
    tmp_path: Path, measured_once: Path, kind: type[records.Record], data: st.DataObject
) -> None:
    stored = next(measured_once.rglob(f"artifacts/{kind.__name__.lower()}s/tiny/**/*ov-int8*.json"))
    (tmp_path / "x.json").write_bytes(
        data.draw(
            malformed.replaced(json.loads(stored.read_text())).map(malformed.written)
            | malformed.damaged(stored.read_bytes())
        )
    )
    refused(lambda: records.read(tmp_path / "x.json", kind), "x.json")


@given(data=st.data())
def test_signed_statements(published_once: Path, data: st.DataObject) -> None:
    lines = (
        (published_once / "registry/tiny/ov-int8/1/quantgate/signoff.jsonl")
        .read_text()
        .splitlines()
    )
    said = json.loads(data.draw(st.sampled_from(lines)))
    inside = json.loads(signing.opened(json.dumps(said), "x").envelope.payload)
    changed = malformed.replaced(inside).map(
        lambda found: {**said, "payload": base64.b64encode(malformed.written(found)).decode()}
    )
    line = data.draw(
        (changed | malformed.replaced(said) | malformed.values()).map(json.dumps) | st.text()
    )
    refused(lambda: log.parse(line, "x"), "x")


@given(data=st.data())
def test_verify_calls_every_damaged_bundle_tampered(bundle: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(path for path in bundle.rglob("*") if path.is_file())))
    whole = path.read_bytes()
    damaged = data.draw(malformed.damaged(whole).filter(lambda found: found != whole))
    path.unlink()  # a published file may be linked
    path.write_bytes(damaged)
    try:
        assert cli.main(["verify", str(bundle)]) == Tampered.exit_code
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "value",
    [
        "2024-13-45",
        "!!int abc",
        "9" * 5000,
        "[" * 5000,
        "!!timestamp x",
        "!!python/object:os.system x",
    ],
)
def test_a_value_that_yaml_cannot_make_is_an_error_of_ours(tmp_path: Path, value: str) -> None:
    (tmp_path / "x.yaml").write_text(f"model: {value}\n")
    with pytest.raises(RecipeError, match=r"x\.yaml") as error:
        parsing.parse(tmp_path / "x.yaml", Recipe)
    assert len(str(error.value)) < 2000


def test_an_alias_bomb_is_counted_before_it_is_written_out(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"{BOMB}model: *a59\n")
    with pytest.raises(RecipeError, match="once its aliases are written out"):
        parsing.parse(tmp_path / "x.yaml", Recipe)
