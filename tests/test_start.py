"""`quantgate init`: the recipe that it writes is possible, right for the model, and tells of the
commit that it found."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import cli, paths, recipe
from pipeline.planning import index, start
from pipeline.quantizers import refusal
from pipeline.quantizers.families import UNSERVED
from tests import hub_server
from tests.conftest import ROOT

COMMIT = "5" * 40
CHECKPOINT = ROOT / "recipes" / "tiny" / "checkpoint"


def test_of_a_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "recipes/tiny/checkpoint", "--name", "mine"]) == 0
    assert "recipes/mine.yaml: written" in capsys.readouterr().out
    loaded = recipe.load("mine")
    refusal.refuse(paths.recipe("mine"), loaded, "cpu")
    index.check()
    assert (loaded.model.path, loaded.model.parameters) == ("recipes/tiny/checkpoint", 623488)
    assert loaded.serve.max_model_len == 512  # what the model was made for
    assert loaded.gate.mean_kl == {"bf16": 0.01, "int8": 0.012, "int4": 0.3}
    assert loaded.variants["ov-int4"].group_size == 64
    text = paths.recipe("mine").read_text()
    assert "for a model of 0.6 million parameters" in text
    for section in ("calibration", "evaluate", "gate", "serve", "benchmark", "variants"):
        assert text.partition(f"\n{section}:")[0].splitlines()[-1].startswith("# "), section
    assert max(map(len, text.splitlines())) <= 132


def test_nothing_is_written_over_and_a_wrong_word_is_one_sentence(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = paths.recipe("tiny").read_text()
    for words, said in (
        (
            ["recipes/tiny/checkpoint", "--name", "tiny"],
            "recipes/tiny.yaml: is there already. Edit it, or give another --name.",
        ),
        (
            ["nowhere"],
            (
                "MODEL: found 'nowhere'. Expected a folder that is there, or a hub repository:"
                " OWNER/NAME."
            ),
        ),
        (
            ["recipes/tiny/checkpoint", "--name", "A--b"],
            "--name: found 'A--b', expected lower-case letters",
        ),
        (
            ["recipes/tiny/checkpoint", "--revision", "v1"],
            "--revision: found 'v1', which a folder has none of.",
        ),
        (["owner/name", "--path", "nowhere"], "--path: found 'nowhere', which is no folder."),
    ):
        assert cli.main(["init", *words]) == 2
        assert capsys.readouterr().err.startswith(f"quantgate: {said}")
    assert paths.recipe("tiny").read_text() == before
    assert not paths.recipe("checkpoint").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 100}, ""),
        ({"max_position_embeddings": 12}, "quantgate: recipes/odd.yaml: "),
    ],
)
def test_a_model_that_the_usual_does_not_fit(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    changes: dict[str, int],
    said: str,
) -> None:
    """What cannot be is left out; where nothing usual can be, no recipe is left that stops every
    other."""
    source = tmp_path / "odd"
    shutil.copytree(CHECKPOINT, source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | changes))
    code = cli.main(["init", str(source)])
    told = capsys.readouterr().err
    index.check()
    if said:
        assert (code, told.count("\n"), paths.recipe("odd").exists()) == (2, 1, False)
        assert told.startswith(said)
    else:
        assert (code, list(recipe.load("odd").variants)) == (
            0,
            ["ov-bf16", "ov-int8", "ov-int4", "vllm-bf16"],
        )


LEFT_OUT = "# Left out: "
HEADS = {"num_attention_heads": 8, "head_dim": 20}
EXPERTS = {"num_local_experts": 4, "moe_intermediate_size": 96}
# What a family's config.json says, and the variants that `plan` has no objection to.
PLANNED = {
    "llama": ({}, ["ov-bf16", "ov-int8", "ov-int4", "vllm-bf16", "awq-int4"]),
    "qwen3": ({}, ["ov-bf16", "ov-int8", "ov-int4", "vllm-bf16", "awq-int4"]),
    "phi3": ({}, ["ov-bf16", "ov-int8", "ov-int4", "vllm-bf16", "ct-int4"]),
    "gemma2": ({}, ["vllm-bf16", "ct-int4"]),
    "gemma3": ({"text_config": {"model_type": "gemma3_text"}}, ["vllm-bf16", "ct-int4"]),
    "gpt_neox": ({}, ["ov-bf16", "ov-int8", "ov-int4"]),
    "mixtral": (EXPERTS, ["ov-bf16", "ov-int8", "ov-int4", "vllm-bf16"]),
    "qwen3_moe": (EXPERTS, ["ov-bf16", "ov-int8", "ov-int4", "vllm-bf16"]),
}
SIZES = {"hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 512}


def known(model_type: str, **changes: object) -> start.Known:
    """What the hub tells of a model: its configuration, and no weights."""
    folder = Path("known") / model_type
    folder.mkdir(parents=True)
    inner = (
        {"text_config": {**SIZES, **changes.pop("text_config")}} if "text_config" in changes else {}
    )  # type: ignore[dict-item]
    config = {"model_type": model_type, **({} if inner else SIZES), **changes, **inner}
    (folder / "config.json").write_text(json.dumps(config))
    return start.Known({"repo": "a/b", "revision": COMMIT}, folder, 10**6)


@pytest.mark.parametrize("family", [*PLANNED])
def test_what_the_table_refuses_of_a_family_is_left_out(project: Path, family: str) -> None:
    changes, expected = PLANNED[family]
    text = start._text(known(family, **changes))
    paths.recipe("mine").write_text(text)
    loaded = recipe.load("mine")
    assert list(loaded.variants) == expected
    refusal.refuse(paths.recipe("mine"), loaded, "cpu")
    for variant in loaded.variants.values():
        for name in (family, changes.get("text_config", {}).get("model_type")):
            assert refusal.unserved(variant, name, "cpu") is None
    usual = {"ov-bf16", "ov-int8", "ov-int4", "vllm-bf16", "awq-int4"}
    said = " ".join(line.strip("# ") for line in text.splitlines() if line.startswith("#"))
    for name in usual - set(expected):
        assert re.search(rf"Left out: [^:]*\b{name}\b[^:]*: ", said), said
    assert (LEFT_OUT in text) == bool(usual - set(expected))
    assert max(map(len, text.splitlines())) <= 132


def test_families_without_a_refusal_are_tried_too() -> None:
    refused = {family for line in UNSERVED for family in line.models}
    assert refused <= {*PLANNED, "gemma3_text"}


@pytest.mark.parametrize(
    ("changes", "groups"),
    [
        ({}, 64),
        (HEADS, 32),
        ({"num_attention_heads": 5, "head_dim": 20}, -1),
        ({"moe_intermediate_size": 96}, 32),
        ({"text_config": {"moe_intermediate_size": 96}}, 32),
    ],
)
def test_groups_divide_every_matrix_that_a_configuration_tells(
    project: Path, changes: dict[str, object], groups: int
) -> None:
    paths.recipe("mine").write_text(start._text(known("llama", **changes)))
    assert recipe.load("mine").variants["ov-int4"].group_size == groups


def on_hub(surroundings: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Where the hub is, its library reads when it is imported."""
    script = "import sys; from pipeline.cli import main; sys.exit(main())"
    env = {**os.environ, "HF_HUB_DISABLE_XET": "1", **surroundings}
    return subprocess.run(
        [sys.executable, "-c", script, "init", *words],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_of_the_hub_the_commit_is_looked_up(project: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(CHECKPOINT, source)
    home = str(tmp_path / "hf")
    with hub_server.running(tmp_path / "hub") as hub:
        hub.add("owner/Small-Model", COMMIT, source)
        done = on_hub({"HF_ENDPOINT": hub.url, "HF_HOME": home}, "owner/Small-Model")
        assert done.returncode == 0, done.stderr
        unknown = on_hub({"HF_ENDPOINT": hub.url, "HF_HOME": home}, "owner/other")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert unknown.stderr.startswith("quantgate: model.repo: owner/other at main")
    loaded = recipe.load("small-model")
    assert (loaded.model.repo, loaded.model.revision, loaded.model.parameters) == (
        "owner/Small-Model",
        COMMIT,
        623488,
    )
    assert loaded.gate.mean_kl["int4"] == 0.3
    assert not list(
        Path(home).rglob("*.safetensors")
    )  # the weights are not needed to say how large they are
    offline = on_hub(
        {"HF_HUB_OFFLINE": "1", "HF_HOME": home}, "owner/Small-Model", "--name", "again"
    )
    assert offline.returncode == 0, offline.stderr
    assert "the limits are the strictest" in offline.stdout
    assert (recipe.load("again").model.revision, recipe.load("again").gate.mean_kl["int4"]) == (
        COMMIT,
        0.08,
    )


def test_a_repository_of_no_model(project: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "tokenizer_config.json").write_text(json.dumps({}))
    with hub_server.running(tmp_path / "hub") as hub:
        hub.add("owner/nothing", COMMIT, source)
        done = on_hub({"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}, "owner/nothing")
    assert done.returncode == 2
    assert (
        f"owner/nothing at {COMMIT}: no config.json. Expected a model in transformers' layout."
        in done.stderr
    )
