"""Audits: what an artifact's files say, which of them are taken, what is refused before anything
runs, how reports mark it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import cli, paths, records
from pipeline import recipe as recipes
from pipeline.errors import ArtifactError, CheckpointError, RecipeError
from pipeline.evidence import opened
from pipeline.planning import index
from pipeline.recipe import Model
from pipeline.records import Verdict, read
from pipeline.report import card, markdown, page
from pipeline.stages.audit import against, claim, taking, verb
from tests import hub_server, summaries, timed_summaries
from tests.build import write_checkpoint, write_safetensors

GROUP = 64
# quantization_config as the tools write it, shortened to what says something
GPTQMODEL = {
    "bits": 4,
    "checkpoint_format": "gptq",
    "desc_act": False,
    "format": "gptq",
    "group_size": GROUP,
    "lm_head": False,
    "meta": {
        "damp_percent": 0.05,
        "quantizer": ["gptqmodel:7.6.0"],
        "uri": "https://github.com/modelcloud/gptqmodel",
    },
    "method": "gptq",
    "pack_dtype": "int32",
    "quant_method": "gptq",
    "sym": True,
}
AUTOGPTQ = {
    "bits": 4,
    "damp_percent": 0.1,
    "desc_act": True,
    "group_size": GROUP,
    "model_file_base_name": "model",
    "quant_method": "gptq",
    "static_groups": False,
    "sym": True,
    "true_sequential": True,
}
AUTOAWQ = {
    "bits": 4,
    "group_size": GROUP,
    "modules_to_not_convert": None,
    "quant_method": "awq",
    "version": "gemm",
    "zero_point": True,
}
AUTOROUND_AWQ = {
    "autoround_version": "0.15.1",
    "bits": 4,
    "data_type": "int",
    "group_size": GROUP,
    "provider": "auto-round",
    "modules_to_not_convert": ["lm_head"],
    "quant_method": "awq",
    "sym": True,
    "version": "gemm",
    "zero_point": False,
}


AUTOROUND = {
    "quant_method": "auto-round",
    "packing_format": "auto_round:auto_gptq",
    "bits": 4,
    "group_size": GROUP,
    "sym": True,
    "data_type": "int",
    "iters": 0,
    "model_free": True,
    "autoround_version": "0.15.1",
    "block_name_to_quantize": "model.layers",
}


def of_groups(
    stored: str, bits: int, group_size: int | None, activations: dict[str, Any] | None
) -> dict[str, Any]:
    """As llm-compressor 0.12 writes it."""
    weights = {
        "group_size": group_size,
        "num_bits": bits,
        "strategy": "group" if group_size else "channel",
        "symmetric": True,
        "actorder": None,
        "type": "int",
    }
    group = {
        "format": stored,
        "input_activations": activations,
        "targets": ["Linear"],
        "weights": weights,
    }
    return {
        "config_groups": {"group_0": group},
        "format": stored,
        "ignore": ["lm_head"],
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "version": "0.19.0",
    }


W4A16 = of_groups("pack-quantized", 4, GROUP, None)
W8A8 = of_groups(
    "int-quantized", 8, None, {"dynamic": True, "num_bits": 8, "strategy": "token", "type": "int"}
)


def parts(layout: str, out: int, columns: int) -> dict[str, tuple[str, tuple[int, int]]]:
    """Type and shape of what a layer [out, columns] is stored as."""
    groups = columns // GROUP
    zeros = {"qzeros": ("I32", (groups, out // 8)), "scales": ("F16", (groups, out))}
    return {
        "gptq": {"qweight": ("I32", (columns // 8, out)), **zeros},
        "awq": {"qweight": ("I32", (columns, out // 8)), **zeros},
        "packed": {
            "weight_packed": ("I32", (out, columns // 8)),
            "weight_scale": ("F16", (out, groups)),
        },
        "int8": {"weight": ("I8", (out, columns)), "weight_scale": ("F16", (out, 1))},
        "float": {"weight": ("F16", (out, columns))},
    }[layout]


def write_artifact(
    folder: Path, layout: str, config: dict[str, Any] | None, columns: int = 64
) -> Path:
    """An artifact of the checkpoint that write_checkpoint makes: right in its names and shapes,
    with zeros for values."""
    folder.mkdir()
    tensors: dict[str, tuple[str, np.ndarray]] = {
        "model.embed_tokens.weight": ("F16", np.zeros((32, columns)))
    }
    for name, shape in {
        "self_attn.q_proj": (columns, columns),
        "mlp.down_proj": (columns, 2 * columns),
    }.items():
        for part, (dtype, stored) in parts(layout, *shape).items():
            tensors[f"model.layers.0.{name}.{part}"] = (dtype, np.zeros(stored))
    write_safetensors(folder / "model.safetensors", tensors)
    said = {"architectures": ["LlamaForCausalLM"]} | (
        {"quantization_config": config} if config else {}
    )
    (folder / "config.json").write_text(json.dumps(said))
    for name in ("tokenizer_config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "source")
    return tmp_path / "source"


def claimed(artifact: Path, source: Path) -> claim.Claim:
    job = {"artifact": str(artifact), "checkpoint": str(source), "engine": "vllm"}
    return claim.Claim.model_validate(claim.work(job))


@pytest.mark.parametrize(
    ("layout", "config", "quantizer", "weights", "settings", "versions"),
    [
        (
            "gptq",
            GPTQMODEL,
            "gptq",
            "int4",
            {"group_size": 64, "symmetric": True, "desc_act": False},
            {"gptqmodel": "7.6.0"},
        ),
        (
            "gptq",
            AUTOGPTQ,
            "gptq",
            "int4",
            {"group_size": 64, "symmetric": True, "desc_act": True},
            {},
        ),
        ("awq", AUTOAWQ, "awq", "int4", {"group_size": 64, "symmetric": False}, {}),
        (
            "awq",
            AUTOROUND_AWQ,
            "awq",
            "int4",
            {"group_size": 64, "symmetric": True},
            {"auto-round": "0.15.1"},
        ),
        (
            "gptq",
            AUTOROUND,
            "gptq",
            "int4",
            {"group_size": 64, "symmetric": True, "desc_act": False},
            {"auto-round": "0.15.1"},
        ),
        (
            "packed",
            W4A16,
            "compressed-tensors",
            "int4",
            {"group_size": 64, "symmetric": True},
            {"compressed-tensors": "0.19.0"},
        ),
        (
            "int8",
            W8A8,
            "compressed-tensors",
            "int8",
            {"symmetric": True, "activations": "int8"},
            {"compressed-tensors": "0.19.0"},
        ),
        ("float", None, None, "bf16", {}, {}),
    ],
    ids=[
        "gptqmodel",
        "autogptq",
        "autoawq",
        "auto-round to awq",
        "auto-round",
        "w4a16",
        "w8a8",
        "unquantized",
    ],
)
def test_the_claim_is_read_from_the_files(
    tmp_path: Path,
    source: Path,
    layout: str,
    config: Any,
    quantizer: str,
    weights: str,
    settings: Any,
    versions: Any,
) -> None:
    found = claimed(write_artifact(tmp_path / "artifact", layout, config), source)
    assert (found.quantizer, found.weights, found.settings, found.versions) == (
        quantizer,
        weights,
        settings,
        versions,
    )
    assert (found.layers.expected, found.layers.quantized, found.stored_types) == (
        2,
        2,
        {weights: 2},
    )
    bits, group = (
        int(weights.removeprefix("int").removeprefix("bf")),
        settings.get("group_size", -1),
    )
    wanted = quantizer and records.Rounding(
        format=quantizer,
        bits=bits,
        group_size=group,
        symmetric=settings["symmetric"],
        outside=["bf16"],
    )
    assert found.rounding == wanted


@pytest.mark.parametrize(
    ("layout", "config", "said"),
    [
        ("float", GPTQMODEL, "says gptq, its layers are stored as {'bf16': 2}"),
        ("gptq", None, "says nothing of a quantization, its layers are stored as {'int4': 2}"),
        ("gptq", {**GPTQMODEL, "checkpoint_format": "marlin"}, "expected 4 bits"),
        ("gptq", {**GPTQMODEL, "bits": 3}, "expected 4 bits"),
        ("gptq", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "expected 4 bits"),
        ("gptq", {**AUTOROUND, "packing_format": "auto_round:gptqmodel"}, "expected 4 bits"),
    ],
)
def test_files_that_contradict_each_other_or_are_of_no_known_layout(
    tmp_path: Path, source: Path, layout: str, config: Any, said: str
) -> None:
    with pytest.raises(ArtifactError, match=said):
        claimed(write_artifact(tmp_path / "artifact", layout, config), source)


def test_another_models_shapes_are_refused(tmp_path: Path, source: Path) -> None:
    with pytest.raises(ArtifactError, match=r"shape \[128, 128\], the source has \[64, 64\]"):
        claimed(write_artifact(tmp_path / "artifact", "gptq", GPTQMODEL, columns=128), source)


def test_what_the_configs_say_differently_of_the_model() -> None:
    ours = {"rope_theta": 10000.0, "torch_dtype": "float16", "hidden_size": 64, "new_key": 1}
    theirs = {"rope_theta": 1000000.0, "torch_dtype": "bfloat16", "hidden_size": 64}
    assert claim.changed(ours, theirs) == [
        "config.json: rope_theta is 10000.0, the source's 1000000.0"
    ]


def test_a_missing_record_names_the_audit() -> None:
    with pytest.raises(
        ArtifactError, match=r"Run: quantgate audit MODEL --recipe tiny --name theirs"
    ):
        read(paths.audit("tiny", "theirs") / "verdict.json", Verdict)


def test_where_an_artifact_may_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = taking.where(f"owner/model-GPTQ@{'a' * 40}")
    assert (found.repo, found.revision, found.path) == ("owner/model-GPTQ", "a" * 40, None)
    monkeypatch.setenv("QUANTGATE_CALLED_FROM", str(tmp_path))
    (tmp_path / "here").mkdir()
    assert taking.where("here").path == str(tmp_path / "here")
    for wrong in ("owner/model", "owner/model@main"):
        with pytest.raises(
            ArtifactError,
            match=r"no such folder\. Expected a folder, or a hub repository at a commit",
        ):
            taking.where(wrong)


def take(folder: Path, ours: bool = False) -> taking.Taken:
    out = folder.with_name("out")
    out.mkdir()
    return taking.take(folder, out, ours)


def test_only_what_the_engine_reads_is_taken(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "artifact", "gptq", GPTQMODEL)
    for name in ("modeling_x.py", "pytorch_model.bin", "adapter_model.safetensors", "notes.md"):
        (folder / name).write_text("x")
    found = take(folder)
    assert found.engine == "vllm"
    assert {file.path for file in found.files} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        file.path for file in found.files
    }
    assert found.left_out == ["adapter_model.safetensors", "modeling_x.py", "pytorch_model.bin"]


def test_an_ir_is_openvinos(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "artifact", "gptq", GPTQMODEL)
    (folder / "openvino_model.xml").write_text("<net/>")
    (folder / "openvino_model.bin").write_bytes(b"")
    found = take(folder)
    assert found.engine == "openvino"
    assert {"openvino_model.xml", "openvino_model.bin", "config.json"} < {
        file.path for file in found.files
    }
    assert found.left_out == ["model.safetensors"]


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "artifact", "gptq", GPTQMODEL)
    (folder / "tokenizer.json").rename(tmp_path / "elsewhere.json")
    (folder / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ArtifactError, match=r"tokenizer.json: a link that leaves its folder"):
        take(folder)


def test_the_hub_clients_own_links_become_files(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "artifact", "gptq", GPTQMODEL)
    (folder / "tokenizer.json").rename(tmp_path / "blob")
    (folder / "tokenizer.json").symlink_to(tmp_path / "blob")
    take(folder, ours=True)
    assert not (tmp_path / "out" / "tokenizer.json").is_symlink()


TAKE_SCRIPT = """
import sys
from pathlib import Path
from pipeline.stages.audit import taking
where = taking.where(sys.argv[1])
found = taking.take(taking.fetch(where), Path(sys.argv[2]), ours=where.repo is not None)
print(found.engine, *sorted(file.path for file in found.files))
"""


@pytest.mark.parametrize("engine", ["vllm", "openvino"])
def test_from_the_hub_comes_what_the_engine_reads(tmp_path: Path, engine: str) -> None:
    folder = write_artifact(tmp_path / "artifact", "gptq", GPTQMODEL)
    expected = {"config.json", "tokenizer.json", "tokenizer_config.json"}
    ours = {
        "vllm": {"model.safetensors"},
        "openvino": {"openvino_model.xml", "openvino_model.bin"},
    }[engine]
    for name in {"pytorch_model.bin", "modeling.py"} | (ours if engine == "openvino" else set()):
        (folder / name).write_text("x")
    (tmp_path / "out").mkdir()
    with hub_server.running(tmp_path / "hub") as hub:
        hub.add("owner/name", "a" * 40, folder)
        online = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
        }
        command = [
            sys.executable,
            "-c",
            TAKE_SCRIPT,
            f"owner/name@{'a' * 40}",
            str(tmp_path / "out"),
        ]
        done = subprocess.run(
            command, env={**os.environ, **online}, capture_output=True, text=True, check=True
        )
    assert done.stdout.split() == [engine, *sorted(expected | ours)]
    cached = {path.name for path in (tmp_path / "hf").rglob("*") if path.is_symlink()}
    assert cached.isdisjoint({"pytorch_model.bin", "modeling.py"}), (
        "what is not taken is not even fetched"
    )


def test_pickles_and_empty_folders_are_refused(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "artifact", "gptq", GPTQMODEL)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="only pickle files"):
        take(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"neither openvino_model\.xml nor config\.json"):
        taking.take(tmp_path / "empty", tmp_path / "out", ours=False)


@pytest.mark.parametrize(
    ("engine", "said", "expected"),
    [
        (
            "vllm",
            {"quantizer": "gptq", "weights": "int4", "settings": {"symmetric": False}},
            "vLLM refuses asymmetric GPTQ",
        ),
        (
            "vllm",
            {
                "quantizer": "gptq",
                "weights": "int4",
                "settings": {"desc_act": True, "group_size": 64},
            },
            "no longer serves it",
        ),
        (
            "openvino",
            {"quantizer": "openvino", "weights": "nf4", "settings": {}},
            "is what the artifact has. Add it",
        ),
    ],
)
@pytest.mark.usefixtures("project")
def test_what_cannot_be_judged_is_refused(engine: str, said: dict[str, Any], expected: str) -> None:
    rest = {
        "recorded": {},
        "versions": {},
        "rounding": None,
        "stored_types": {},
        "changed": [],
        "layers": {"expected": 1, "quantized": 1, "skipped": []},
    }
    found = claim.Claim.model_validate({**rest, **said})
    with pytest.raises((ArtifactError, RecipeError), match=expected):
        verb._as_variant(opened.recipe("tiny"), "theirs", engine, found)


@pytest.mark.usefixtures("project")
def test_wrong_words_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(write_artifact(tmp_path / "artifact", "gptq", GPTQMODEL))
    assert cli.main(["audit", folder, "--recipe", "tiny", "--name", "ov-int4"]) == 2
    assert "is a variant of recipe 'tiny'" in capsys.readouterr().err
    assert cli.main(["audit", folder, "--recipe", "tiny", "--name", "Ä"]) == 2
    assert "--name: found 'Ä', expected" in capsys.readouterr().err
    assert cli.main(["audit", "nowhere", "--recipe", "tiny"]) == 2
    (Path(folder) / "model.safetensors").rename(Path(folder) / "pytorch_model.bin")
    assert cli.main(["audit", folder, "--recipe", "tiny"]) == 2
    assert "only pickle files" in capsys.readouterr().err
    assert not Path("artifacts/audits").exists()


@pytest.mark.parametrize(
    ("given", "name"),
    [("a/B.Llama_3-GPTQ/", "b-llama_3-gptq"), ("owner/Model.v1--AWQ", "model-v1-awq")],
)
def test_the_usual_name(given: str, name: str) -> None:
    assert against.slug(given) == name


@pytest.mark.usefixtures("project")
def test_another_source_is_a_recipe_of_its_own() -> None:
    own = recipes.load("tiny").model
    assert against.recipe_for("tiny", own) == "tiny"
    assert (
        against.recipe_for(
            "tiny", own.model_copy(update={"path": str(Path(str(own.path)).resolve())})
        )
        == "tiny"
    )
    other = Model(repo="owner/Base-1B", revision="a" * 40, path=None, parameters=None)
    for _ in range(2):
        assert against.recipe_for("tiny", other) == "tiny-of-base-1b"
    index.check()
    found, tiny = recipes.load("tiny-of-base-1b"), recipes.load("tiny")
    changed = {"model": other, "variants": found.variants}
    assert found == tiny.model_copy(update=changed).named("tiny-of-base-1b")
    assert list(found.variants) == ["ov-bf16", "vllm-bf16"]
    with pytest.raises(RecipeError, match="measures against another source"):
        against.recipe_for("tiny", other.model_copy(update={"revision": "b" * 40}))


def test_reports_say_that_it_was_made_elsewhere() -> None:
    name = "gptq-int4"
    rows = {name: summaries.rows()[name]}, {name: timed_summaries.variants()[name]}
    for one in rows:
        one[name]["manifest"]["taken_from"] = "owner/model@abc"
    wide, timed = summaries.summary(rows[0]), timed_summaries.summary(rows[1])
    assert "An audit: quantgate did not make this artifact." in page.render(wide)
    for text in (page.render(wide), markdown.render(timed), card.render(timed, name)):
        assert "Audited: made elsewhere, taken from owner/model@abc." in text
        assert "64 rows" not in text, "the recipe's calibration set says nothing of this artifact"
