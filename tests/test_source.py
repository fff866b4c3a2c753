"""Which files are the model's, and what no run can start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import paths
from pipeline.errors import CheckpointError
from pipeline.recipe import Model
from pipeline.source import checkpoint
from pipeline.source import files as source
from tests.build import write_checkpoint, write_safetensors

LINEAR = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "source", shards=1)
    one = tmp_path / "source" / "model-00001-of-00001.safetensors"
    one.rename(one.with_name("model.safetensors"))
    (tmp_path / "source" / source.INDEX).unlink()
    return tmp_path / "source"


def pin(folder: Path) -> Any:
    return checkpoint.pin(Model(path=str(folder)))


def write_adapter(folder: Path, **config: Any) -> None:
    said = {"base_model_name_or_path": "some/base", "peft_type": "LORA", **config}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    write_safetensors(
        folder / "adapter_model.safetensors",
        {"base_model.q_proj.lora_A.weight": ("F32", np.zeros((8, 64)))},
    )


def change_config(folder: Path, **more: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))


@pytest.mark.parametrize(
    "twin",
    [
        "consolidated.safetensors",
        "model.fp16.safetensors",
        "adapter_model.safetensors",
        "other.safetensors",
    ],
)
def test_only_what_transformers_loads_is_the_model(folder: Path, twin: str) -> None:
    expected = pin(folder)
    (folder / twin).write_bytes((folder / "model.safetensors").read_bytes())
    found = pin(folder)
    assert (found.parameters, found.files) == (expected.parameters, expected.files)
    assert found.left_out == [twin]


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    expected = pin(tmp_path)
    (tmp_path / "consolidated.00.safetensors").write_bytes(
        (tmp_path / "model-00001-of-00002.safetensors").read_bytes()
    )
    assert pin(tmp_path).parameters == expected.parameters


def test_a_whole_file_goes_before_shards_as_in_transformers(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    write_checkpoint(tmp_path / "whole", shards=1)
    (tmp_path / "whole" / "model-00001-of-00001.safetensors").rename(tmp_path / "model.safetensors")
    found = pin(tmp_path)
    names = {file.path for file in found.files}
    assert "model.safetensors" in names
    assert not {source.INDEX, "model-00001-of-00002.safetensors"} & names
    assert found.left_out == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_config_may_name_the_weights_file(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "mine.safetensors")
    with pytest.raises(
        CheckpointError, match=r"mine\.safetensors, which transformers does not take"
    ):
        pin(folder)
    change_config(folder, transformers_weights="mine.safetensors")
    assert "mine.safetensors" in {file.path for file in pin(folder).files}
    change_config(folder, transformers_weights="../mine.safetensors")
    with pytest.raises(CheckpointError, match="no plain file name"):
        pin(folder)


def test_weights_under_another_name_beside_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(
        CheckpointError, match=r"weights\.safetensors, which transformers does not take for a model"
    ):
        pin(folder)


def test_an_adapter_alone_names_its_base_and_how_to_merge(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_adapter(folder)
    with pytest.raises(CheckpointError, match=r"adapter \(LORA\) of some/base.*merge_and_unload"):
        pin(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"adapter \(LORA\) of some/base"):
        pin(folder)


def test_an_adapter_beside_is_left_out_and_said(folder: Path) -> None:
    expected = pin(folder)
    write_adapter(folder)
    found = pin(folder)
    assert (found.parameters, found.files) == (expected.parameters, expected.files)
    assert found.left_out == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize(
    "method",
    ["fp8", "gptq", "awq", "compressed-tensors", "bitsandbytes", "mxfp4", "quanto", "torchao"],
)
def test_a_model_that_is_quantized_already(folder: Path, method: str) -> None:
    change_config(folder, quantization_config={"quant_method": method})
    with pytest.raises(
        CheckpointError, match=f"already quantized by {method} .config.json: quantization_config"
    ):
        pin(folder)


@pytest.mark.parametrize("name", ["quantize_config.json", "hf_quant_config.json"])
def test_quantized_as_a_file_beside_says(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    with pytest.raises(CheckpointError, match=f"already quantized by what {name} says"):
        pin(folder)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("q_proj.qweight", "I32"), ("q_proj.weight", "I8"), ("q_proj.weight", "F8_E4M3")],
)
def test_quantized_as_the_tensors_say(folder: Path, name: str, dtype: str) -> None:
    tensors = {
        f"model.layers.0.{name}": (dtype, np.ones((64, 64))),
        LINEAR: ("F32", np.ones((64, 64))),
    }
    write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(
        CheckpointError, match=f"already quantized by a quantizer .*{name} as {dtype}"
    ):
        pin(folder)


def test_stored_masks_are_not_quantized_weights(folder: Path) -> None:
    tensors = {
        "gpt_neox.layers.0.attention.bias": ("U8", np.ones((1, 1, 8, 8))),
        LINEAR: ("F32", np.ones((64, 64))),
    }
    write_safetensors(folder / "model.safetensors", tensors)
    pin(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architectures", [1]),
        ("architectures", "Llama"),
        ("model_type", []),
        ("vocab_size", "x"),
        ("vocab_size", 0),
        ("hidden_size", 1.5),
        ("hidden_size", 10**400),
        ("tie_word_embeddings", "yes"),
    ],
)
def test_a_configuration_whose_values_are_of_another_kind(
    folder: Path, key: str, value: Any
) -> None:
    change_config(folder, **{key: value})
    with pytest.raises(CheckpointError, match=rf"config\.json: {key}(\.0)?: found .*Expected"):
        pin(folder)


def test_whatever_a_tool_reads_as_json_is_json(folder: Path) -> None:
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json: cannot be read as JSON"):
        pin(folder)


def test_tools_get_the_hashed_files_and_nothing_else(project: Path, folder: Path) -> None:
    """A pickle, an adapter or code beside the weights is not in the folder that tools load from."""
    write_adapter(folder)
    for name in ("pytorch_model.bin", "modeling_x.py", "consolidated.safetensors"):
        (folder / name).write_bytes(b"\x80\x04")
    model = Model(path=str(folder))
    record = checkpoint.pin(model)
    record.write(paths.checkpoint("tiny"))
    given, _ = checkpoint.open_pinned("tiny", model)
    assert {path.name for path in given.iterdir()} == {file.path for file in record.files}
    assert all((given / file.path).samefile(folder / file.path) for file in record.files)
    (given / "pytorch_model.bin").write_bytes(b"\x80\x04")  # put there later
    (given / "config.json").unlink()
    (given / "config.json").write_text("{}")
    given, _ = checkpoint.open_pinned("tiny", model)
    assert {path.name for path in given.iterdir()} == {file.path for file in record.files}
    assert (given / "config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_files_are_copied_where_they_cannot_be_linked(
    project: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    model = Model(path=str(folder))
    checkpoint.pin(model).write(paths.checkpoint("tiny"))
    given, _ = checkpoint.open_pinned("tiny", model)
    assert not (given / "config.json").samefile(folder / "config.json")
    before = (given / "model.safetensors").stat().st_ino
    checkpoint.open_pinned("tiny", model)
    assert (given / "model.safetensors").stat().st_ino == before  # what holds is not copied again
    (given / "model.safetensors").write_bytes(b"other")
    checkpoint.open_pinned("tiny", model)
    assert (given / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
