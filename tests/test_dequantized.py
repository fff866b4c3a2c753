"""4-bit layers as GPTQ and AWQ store them, packed here by a naive loop, back to the weights they
stand for."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ArtifactError
from pipeline.formats.decoded import dequantize
from pipeline.formats.packing import Packing, packing
from pipeline.runtime import environments
from pipeline.source.checkpoint import source_tensors
from tests.build import write_safetensors
from tests.conftest import ROOT

IN, OUT, GROUP = 32, 16, 8
LAYER = "model.layers.0.mlp.down_proj"
RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 16, (IN, OUT))
ZEROS = RNG.integers(0, 16, (IN // GROUP, OUT))
SCALES = RNG.uniform(0.01, 0.1, (IN // GROUP, OUT)).astype(np.float16)
SHUFFLED = RNG.permutation(np.arange(IN) // GROUP).astype(np.int32)
AWQ_COLUMNS = (
    0,
    2,
    4,
    6,
    1,
    3,
    5,
    7,
)  # which column lies in which nibble, from the lowest (AutoAWQ, packing_utils.py)
GPTQ, V2, AWQ = (
    Packing("gptq", "gptq", GROUP, False),
    Packing("gptq", "gptq_v2", GROUP, False),
    Packing("awq", "gemm", GROUP, False),
)


def word(nibbles: list[int]) -> int:
    """Eight nibbles, the lowest first, as a signed 32-bit number."""
    return int.from_bytes(
        sum(int(nibble) << 4 * i for i, nibble in enumerate(nibbles)).to_bytes(4, "little"),
        "little",
        signed=True,
    )


def along_out(values: np.ndarray, columns: tuple[int, ...] = tuple(range(8))) -> np.ndarray:
    """[rows, n] -> int32 [rows, n/8]."""
    return np.array(
        [
            [word([row[j + c] for c in columns]) for j in range(0, len(row), 8)]
            for row in values.tolist()
        ],
        dtype=np.int32,
    )


def minus_one(packed: np.ndarray) -> np.ndarray:
    """As GPTQModel goes from v2 to v1: int32 arithmetic over all eight nibbles at once, with
    borrows between them."""
    return np.array(
        [[(int(w) - 0x11111111 + 2**31) % 2**32 - 2**31 for w in row] for row in packed],
        dtype=np.int32,
    )


def stored(how: Packing, **change: Any) -> dict[str, np.ndarray]:
    if how.method == "awq":
        parts = {"qweight": along_out(VALUES, AWQ_COLUMNS), "qzeros": along_out(ZEROS, AWQ_COLUMNS)}
    else:
        parts = {"qweight": along_out(VALUES.T).T, "qzeros": along_out(ZEROS)}
    if how.format == "gptq":
        parts["qzeros"] = minus_one(parts["qzeros"])
    return {**parts, "scales": SCALES, **change}


def test_eight_bits_of_gptq() -> None:
    """Four values to a word, packed byte by byte; v1 stores a zero less one."""
    values, zeros = RNG.integers(0, 256, (IN, OUT)), RNG.integers(1, 256, (IN // GROUP, OUT))
    qweight = (
        values.T.astype(np.uint8).copy().view(np.int32).T
    )  # a word's four bytes, the lowest first, lie along the inputs
    parts = {
        "qweight": qweight,
        "qzeros": (zeros - 1).astype(np.uint8).view(np.int32),
        "scales": SCALES,
    }
    found = dequantize(LAYER, parts, Packing("gptq", "gptq", GROUP, False, bits=8))
    wanted = [
        [
            (int(values[i, o]) - int(zeros[i // GROUP, o])) * float(SCALES[i // GROUP, o])
            for i in range(IN)
        ]
        for o in range(OUT)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def expected(group: np.ndarray) -> np.ndarray:
    """[OUT, IN], one weight at a time."""
    rows = [
        [
            (int(VALUES[i, o]) - int(ZEROS[group[i], o])) * float(SCALES[group[i], o])
            for i in range(IN)
        ]
        for o in range(OUT)
    ]
    return np.array(rows, dtype=np.float32)


@pytest.mark.parametrize("how", [GPTQ, V2, AWQ], ids=["gptq", "gptq_v2", "awq"])
def test_the_weights_come_back_exactly(how: Packing) -> None:
    assert (ZEROS == 0).any()  # the borrow is on the way
    weight = dequantize(LAYER, stored(how), how)
    assert weight.dtype == np.float32
    np.testing.assert_array_equal(weight, expected(np.arange(IN) // GROUP))


def test_the_group_index_is_honoured() -> None:
    weight = dequantize(LAYER, stored(GPTQ, g_idx=SHUFFLED), GPTQ._replace(desc_act=True))
    np.testing.assert_array_equal(weight, expected(SHUFFLED))
    assert not np.array_equal(weight, expected(np.arange(IN) // GROUP))


def test_one_group_for_all_inputs() -> None:
    one = {"qzeros": minus_one(along_out(ZEROS[:1])), "scales": SCALES[:1]}
    weight = dequantize(LAYER, stored(GPTQ, **one), GPTQ._replace(group_size=-1))
    np.testing.assert_array_equal(weight, expected(np.zeros(IN, int)))


@pytest.mark.parametrize(
    ("how", "change", "said"),
    [
        (
            AWQ,
            {"qweight": stored(GPTQ)["qweight"]},
            r"down_proj: found .*'qweight': \(4, 16\).*expected .*'qweight': \(4, 2\)",
        ),
        (
            GPTQ._replace(group_size=16),
            {},
            r"found .*'scales': \(4, 16\).*expected .*'scales': \(2, 16\)",
        ),
        (GPTQ._replace(desc_act=True), {}, "g_idx only needed with desc_act"),
        (GPTQ, {"g_idx": SHUFFLED + 1}, "g_idx: found 1 to 4, expected groups 0 to 3"),
        (
            GPTQ,
            {"g_idx": SHUFFLED},
            "g_idx has groups that are not in order, but config.json says desc_act false",
        ),
        (GPTQ, {"qweight": VALUES.astype(np.int16)}, "'qweight': 'int16'.*expected int32 qweight"),
    ],
    ids=[
        "gptq read as awq",
        "group size",
        "no g_idx",
        "g_idx out of range",
        "g_idx unread",
        "type",
    ],
)
def test_what_does_not_fit_is_named(how: Packing, change: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        dequantize(LAYER, stored(how, **change), how)


def read(tmp_path: Path, **config: Any) -> Packing | None:
    (tmp_path / "config.json").write_text(
        json.dumps({"quantization_config": config} if config else {})
    )
    return packing(tmp_path)


def test_the_layout_is_read_from_the_config(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    assert (
        read(tmp_path, quant_method="gptq", checkpoint_format="gptq_v2", bits=4, group_size=GROUP)
        == V2
    )
    assert read(tmp_path, quant_method="gptq", bits=4, group_size=GROUP, desc_act=False) == GPTQ
    assert read(tmp_path, quant_method="awq", version="GEMM", bits=4, group_size=GROUP) == AWQ


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "gptq", "bits": 3, "group_size": 128},
        {"quant_method": "awq", "version": "gemm", "bits": 8, "group_size": 128},
        {"quant_method": "awq", "version": "gemv", "bits": 4, "group_size": 128},
        {"quant_method": "gptq", "checkpoint_format": "marlin", "bits": 4, "group_size": 128},
        {"quant_method": "fp8", "bits": 4, "group_size": 128},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "gptq", "bits": 4, "group_size": 0},
    ],
)
def test_an_unknown_layout_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"quantization_config: found .* expected 4 bits"):
        read(tmp_path, **config)


def write_twice(folder: Path) -> dict[str, Path]:
    """The tiny model with made-up 4-bit layers: packed, as the float32 weights these stand for, and
    packed but torn."""
    source = ROOT / "recipes" / "tiny" / "checkpoint"
    packed: dict[str, tuple[str, np.ndarray]] = {}
    plain: dict[str, tuple[str, np.ndarray]] = {}
    for name, tensor in source_tensors(source).items():
        if not name.endswith("_proj.weight"):
            bits = np.memmap(tensor.file, "<u2", "r", tensor.begin, tensor.shape)
            packed[name], plain[name] = (
                ("BF16", bits),
                ("F32", (bits.astype("<u4") << 16).view("<f4")),
            )
            continue
        layer, (out, inputs) = name.removesuffix(".weight"), tensor.shape
        values, zeros = RNG.integers(0, 16, (inputs, out)), RNG.integers(4, 12, (inputs // 64, out))
        scales = RNG.uniform(0.01, 0.02, zeros.shape).astype("<f2")
        parts = {"qweight": along_out(values.T).T, "qzeros": minus_one(along_out(zeros))}
        packed |= {f"{layer}.{part}": ("I32", words) for part, words in parts.items()} | {
            f"{layer}.scales": ("F16", scales)
        }
        weight = (values - zeros.repeat(64, 0)) * scales.repeat(64, 0).astype("<f4")
        plain[name] = ("F32", weight.T)
    torn = {name: values for name, values in packed.items() if name != "model.norm.weight"}
    torn["model.layers.0.input_layernorm.weight"] = ("F32", np.ones(64))
    config = json.loads((source / "config.json").read_text())
    how = {
        "quantization_config": {
            "quant_method": "gptq",
            "checkpoint_format": "gptq",
            "bits": 4,
            "group_size": 64,
        }
    }
    for kind, tensors in {"packed": packed, "plain": plain, "torn": torn}.items():
        (folder / kind).mkdir()
        write_safetensors(folder / kind / "model.safetensors", tensors)
        (folder / kind / "config.json").write_text(
            json.dumps(config | (how if kind != "plain" else {}))
        )
        shutil.copyfile(source / "generation_config.json", folder / kind / "generation_config.json")
    return {kind: folder / kind for kind in ("packed", "plain", "torn")}


@pytest.mark.engine
def test_the_engine_is_the_reference_over_the_unpacked_weights(tmp_path: Path) -> None:
    folders = write_twice(tmp_path)
    command = [
        str(environments.python("vllm")),
        "-m",
        "tests.contract.dequantized_probe",
        *map(str, folders.values()),
    ]
    subprocess.run([*command, str(tmp_path / "found.json")], cwd=ROOT, check=True)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["packed"] == found["plain"]
    assert found["unquantized"] == found["plain"]
    assert (
        "its weights are not those of llama: {'missing_keys': ['model.norm.weight']"
        in found["torn"]
    )
    assert "'mismatched_keys': [\"('model.layers.0.input_layernorm.weight'" in found["torn"]
