"""What is read from GPTQModel's own log: losses, layers without a searched scale, and silent
fallbacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import QuantizeError
from pipeline.quantizers.gptqmodel import _calibration_log
from pipeline.source.checkpoint import linear_shapes
from tests.build import write_checkpoint

HEAD = "layer,module,loss,samples,damp,time\n"
Q, D, OUT = "0,self_attn.q_proj", "0,mlp.down_proj", "0,self_attn.o_proj"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "source")
    return tmp_path / "quant_log.csv"


def read(log: Path, *lines: str) -> dict[str, float | None]:
    log.write_text(HEAD + "".join(f"{line}\n" for line in lines))
    return _calibration_log(log, linear_shapes(log.parent / "source").keys())


def test_losses_by_layer_and_the_log_does_not_stay(log: Path) -> None:
    found = read(
        log, f"{Q},0.25,4096,0.05,0.1", f"{D},0.5,4096,,0.1", f"{OUT},not applicable,4096,,0.1"
    )
    assert found["model.layers.0.self_attn.q_proj"] == 0.25
    assert found["model.layers.0.self_attn.o_proj"] is None
    assert not log.exists()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([f"{Q},0.25,4096,0.05,0.1"], r"left out model\.layers\.0\.mlp\.down_proj"),
        (
            [f"{Q},fallback(rtn),4096,,0.1", f"{D},0.1,4096,,0.1"],
            r"q_proj but fell back \('fallback\(rtn\)'\)",
        ),
        (
            [f"{Q},not applicable,4096,,0.1", f"{D},0.1,4096,,0.1"],
            r"q_proj but fell back \('not applicable'\)",
        ),
        (
            [f"{Q},0.25,0,,0.1", f"{D},0.1,4096,,0.1"],
            "saw no calibration tokens at layer 0 self_attn.q_proj",
        ),
    ],
)
def test_a_layer_that_was_not_calibrated_is_an_error(
    log: Path, lines: list[str], expected: str
) -> None:
    with pytest.raises(QuantizeError, match=expected):
        read(log, *lines)
