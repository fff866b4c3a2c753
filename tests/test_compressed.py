"""Layers of compressed-tensors checkpoints back to float32, against packing and arithmetic written
out one value at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import ArtifactError
from pipeline.formats import compressed
from pipeline.formats.packing import wrong_groups

ROWS, COLUMNS, GROUPS = 16, 24, 3
RANDOM = np.random.default_rng(0)
VALUES = RANDOM.integers(-8, 8, (ROWS, COLUMNS))
SCALES = RANDOM.random((ROWS, GROUPS)).astype(np.float32)
ZEROS = RANDOM.integers(-8, 8, (ROWS, GROUPS))
SHAPE = np.array([ROWS, COLUMNS])


def packed(values: np.ndarray) -> np.ndarray:
    """Eight along a row to a word, the first in the lowest bits, each stored plus 8."""
    words = np.zeros((len(values), values.shape[1] // 8), np.uint32)
    for row, column in np.ndindex(values.shape):
        words[row, column // 8] |= np.uint32(int(values[row, column]) + 8) << np.uint32(
            4 * (column % 8)
        )
    return words.view(np.int32)


def expected(values: np.ndarray, zeros: np.ndarray) -> list[list[float]]:
    size = COLUMNS // GROUPS
    return [
        [
            float((int(values[i, j]) - int(zeros[i, j // size])) * SCALES[i, j // size])
            for j in range(COLUMNS)
        ]
        for i in range(ROWS)
    ]


def test_four_bits_in_groups() -> None:
    parts = {"weight_scale": SCALES, "weight_shape": SHAPE}
    found = compressed.dequantize("l", packed(VALUES), parts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(VALUES, np.zeros_like(ZEROS)), rtol=1e-6)


def test_four_bits_with_zero_points_packed_along_the_outputs() -> None:
    parts = {"weight_scale": SCALES, "weight_shape": SHAPE, "weight_zero_point": packed(ZEROS.T).T}
    np.testing.assert_allclose(
        compressed.dequantize("l", packed(VALUES), parts), expected(VALUES, ZEROS), rtol=1e-6
    )


def test_eight_bits_per_channel() -> None:
    values = RANDOM.integers(-128, 128, (ROWS, COLUMNS)).astype(np.int8)
    found = compressed.dequantize("l", values, {"weight_scale": SCALES[:, :1]})
    np.testing.assert_allclose(found, values.astype(np.float64) * SCALES[:, :1], rtol=1e-6)


def test_eight_bit_floats_per_channel() -> None:
    """Every finite E4M3 value, as arXiv 2209.05433 defines it, arrives as a float already: the
    file's reader converts."""
    values = np.array([e4m3(code) for code in range(256) if code & 0x7F != 0x7F], np.float32)
    found = compressed.dequantize("l", values.reshape(2, 127), {"weight_scale": SCALES[:2, :1]})
    np.testing.assert_allclose(
        found, values.reshape(2, 127).astype(np.float64) * SCALES[:2, :1], rtol=1e-6
    )


def e4m3(code: int) -> float:
    sign, exponent, mantissa = -1 if code & 0x80 else 1, code >> 3 & 15, code & 7
    return sign * (mantissa * 2**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight_scale": SCALES[:4]}, "expected weight_scale"),
        ({"weight_scale": np.ones((ROWS, 5), np.float32)}, "divide the columns"),
        ({"weight_shape": SHAPE[::-1]}, "expected weight_shape"),
        ({"weight_zero_point": packed(ZEROS.T)}, "expected weight_zero_point"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any], words: str) -> None:
    parts = {"weight_scale": SCALES, "weight_shape": SHAPE} | change
    with pytest.raises(ArtifactError, match=words):
        compressed.dequantize("model.layers.0.q", packed(VALUES), parts)


def config(**changes: Any) -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "int", "actorder": None} | changes
    return {"format": "pack-quantized", "config_groups": {"group_0": {"weights": weights}}}


def test_only_what_is_understood_is_read() -> None:
    assert wrong_groups(config()) is None
    assert "expected 4 bits" in str(wrong_groups(config(num_bits=3)))
    assert "groups in order" in str(wrong_groups(config(actorder="group")))
    assert "expected one of pack-quantized" in str(
        wrong_groups({**config(), "format": "nvfp4-pack-quantized"})
    )


def test_layers_of_two_widths_say_their_format_each() -> None:
    eight = {"format": "int-quantized", "weights": {"num_bits": 8, "type": "int", "actorder": None}}
    four = {"format": "pack-quantized", **config()["config_groups"]["group_0"]}
    both = {"format": "mixed-precision", "config_groups": {"group_0": four, "group_1": eight}}
    assert wrong_groups(both) is None
    both["config_groups"]["group_1"] = {**eight, "format": "marlin-24"}
    assert "format 'marlin-24', expected one of" in str(wrong_groups(both))
    assert wrong_groups({"format": "pack-quantized"}) == "no config_groups"
