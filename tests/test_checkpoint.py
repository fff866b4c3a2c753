from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline import paths
from pipeline.errors import CheckpointError, RecipeError
from pipeline.quantizers import refusal
from pipeline.recipe import Model, Variant
from pipeline.source import checkpoint
from pipeline.source.tensors import not_finite, read_header
from tests import hub_server
from tests.build import write_checkpoint, write_safetensors

SHARD = "model-00002-of-00002.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "source")
    return tmp_path / "source"


def pin(source: Path) -> None:
    checkpoint.pin(Model(path=str(source)))


def test_pin_records_every_file_and_counts_parameters(source: Path) -> None:
    record = checkpoint.pin(Model(path=str(source)))
    assert record.parameters == 32 * 64 + 64 * 64 + 64 * 128 + 64
    assert record.dtype == "F32"
    assert {file.path for file in record.files} == {path.name for path in source.iterdir()}
    assert all(file.size_bytes == (source / file.path).stat().st_size for file in record.files)


def test_a_path_that_a_tool_would_misread(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a@b")
    with pytest.raises(CheckpointError, match="Rename the folder"):
        pin(tmp_path / "a@b")


def test_missing_shard(source: Path) -> None:
    (source / SHARD).unlink()
    with pytest.raises(CheckpointError, match=f"missing shards {SHARD}"):
        pin(source)


def test_truncated_shard(source: Path) -> None:
    data = (source / SHARD).read_bytes()
    (source / SHARD).write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        pin(source)
    (source / SHARD).write_bytes(data[:20])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        pin(source)


def test_index_that_names_other_tensors(source: Path) -> None:
    index = source / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"]["model.extra.weight"] = SHARD
    index.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"not where it says: model\.extra\.weight"):
        pin(source)


def test_shard_outside_the_folder(source: Path) -> None:
    index = source / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(SHARD, f"../{SHARD}"))
    with pytest.raises(CheckpointError, match="no plain file name"):
        pin(source)


def test_nan_weights_are_named(tmp_path: Path) -> None:
    source = tmp_path / "source"
    values = write_checkpoint(source, shards=1)
    values["model.layers.0.mlp.down_proj.weight"][3, 5] = np.nan
    values["model.embed_tokens.weight"][0, 0] = np.inf
    write_safetensors(
        source / "model-00001-of-00001.safetensors", {k: ("F32", v) for k, v in values.items()}
    )
    with pytest.raises(CheckpointError, match=r"embed_tokens.*1 values.*down_proj"):
        pin(source)


def test_pickle_only_checkpoint(source: Path) -> None:
    for path in source.glob("model*"):
        path.unlink()
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=r"only pickle files \(pytorch_model.bin\)"):
        pin(source)


def test_changed_since_pinned(project: Path, source: Path) -> None:
    model = Model(path=str(source))
    checkpoint.pin(model).write(paths.checkpoint("tiny"))
    checkpoint.open_pinned("tiny", model)
    (source / "config.json").write_text("{} ")
    with pytest.raises(CheckpointError, match=r"changed since it was pinned: config\.json"):
        checkpoint.open_pinned("tiny", model)


def test_group_size_that_does_not_divide_names_layers_and_remedy(source: Path) -> None:
    variant = Variant(engine="openvino", quantizer="openvino", weights="int4", group_size=128)
    with pytest.raises(RecipeError) as error:
        refusal.refuse_shapes(Path("recipes/x.yaml"), "ov-int4", variant, source)
    assert "recipes/x.yaml: variants.ov-int4.group_size: found 128" in str(error.value)
    assert "model.layers.0.self_attn.q_proj [64, 64]" in str(error.value)
    assert "Use 64" in str(error.value)


def test_layers_too_narrow_for_vllm(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, columns=24)
    variant = Variant(engine="vllm", quantizer="gptq", weights="int4", group_size=8)
    with pytest.raises(RecipeError, match="multiples of 32"):
        refusal.refuse_shapes(Path("r.yaml"), "v", variant, tmp_path)


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_not_finite_agrees_with_numpy(tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(1).normal(size=(7, 11))
    values[0, :3] = [np.nan, np.inf, -np.inf]
    write_safetensors(tmp_path / "a.safetensors", {"w": (dtype, values)})
    tensor = read_header(tmp_path / "a.safetensors")["w"]
    assert not_finite(tensor) == np.count_nonzero(~np.isfinite(values.astype("<f2"))) == 3


def test_not_finite_bfloat16(tmp_path: Path) -> None:
    bits = np.array(
        [0x3F80, 0x7F80, 0xFF80, 0x7FC0, 0x7F7F], dtype="<u2"
    )  # 1, inf, -inf, NaN, largest finite
    write_safetensors(tmp_path / "a.safetensors", {"w": ("BF16", bits)})
    assert not_finite(read_header(tmp_path / "a.safetensors")["w"]) == 3


@pytest.fixture
def hub(source: Path, tmp_path: Path) -> Iterator[str]:
    with hub_server.running(tmp_path / "hub") as hub:
        hub.add("owner/name", COMMIT, source)
        yield hub.url


PIN_SCRIPT = f"""
import sys
from pipeline.errors import QuantgateError
from pipeline.recipe import Model
from pipeline.source import checkpoint
try:
    record = checkpoint.pin(Model(repo="owner/name", revision="{COMMIT}"))
    print("pinned", len(record.files), record.parameters)
except QuantgateError as error:
    print(error)
"""


def _pin_from_hub(environment: dict[str, str]) -> str:
    import os
    import subprocess
    import sys

    command = [sys.executable, "-c", PIN_SCRIPT]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_hub_fetch_then_offline_from_the_cache(
    root: Path, hub: str, source: Path, tmp_path: Path
) -> None:
    online = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    expected = f"pinned {len(list(source.iterdir()))} 14400"
    assert expected in _pin_from_hub(online)
    assert expected in _pin_from_hub({**online, "HF_HUB_OFFLINE": "1"})


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:9", "socks5h://127.0.0.1:9", "socks4://127.0.0.1:9"]
)
def test_a_proxy_that_the_hub_cannot_be_asked_through_is_one_sentence(
    root: Path, tmp_path: Path, proxy: str
) -> None:
    said = _pin_from_hub(
        {"ALL_PROXY": proxy, "HF_ENDPOINT": "http://hub.invalid", "HF_HOME": str(tmp_path / "hf")}
    )
    assert said.startswith("model.repo: the hub cannot be asked through the proxy of ALL_PROXY")
    assert (said.endswith("Give an http:// proxy, or unset it.\n"), said.count("\n")) == (True, 1)


def test_offline_without_the_files_says_what_to_fetch(root: Path, tmp_path: Path) -> None:
    said = _pin_from_hub({"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")})
    assert f"hf download owner/name --revision {COMMIT}" in said


@pytest.mark.parametrize(
    ("card", "named"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"),
        ("---\r\nlicense: mit\r\ntags:\r\n- a\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: own\n---", "other"),
        ("---\ntags: [a]\n---\n", None),
        ("---\n- a\n---\n", None),
        ("# No front matter\n---\nlicense: mit\n---\n", None),
        ("---\na: [\n---\n", None),
        (None, None),
    ],
)
def test_the_licence_is_that_of_the_checkpoints_card(
    source: Path, card: str | None, named: str | None
) -> None:
    if card is not None:
        (source / "README.md").write_text(card)
    assert checkpoint.pin(Model(path=str(source))).license == named
