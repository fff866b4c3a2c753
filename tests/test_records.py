from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.errors import ArtifactError
from pipeline.records import Check, Perplexity, Verdict, Window, read


def test_a_verdict_with_nan_survives_the_file(tmp_path: Path) -> None:
    nan = math.nan
    check = Check(name="c", status="FAIL", value=nan, low=-math.inf, high=math.inf, limit=1, n=0, method="m", reason="ä")
    Verdict(
        recipe="r", variant="v", status="FAIL", checks=[check], tasks=[], tails=[], reference_sha256="a", candidate_sha256="b"
    ).write(tmp_path / "v")
    again = read(tmp_path / "v", Verdict).checks[0]
    assert math.isnan(again.value)
    assert (again.low, again.high, again.reason) == (-math.inf, math.inf, "ä")
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_half_a_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v").write_text('{"recipe": "r"')
    with pytest.raises(ArtifactError, match="not a Verdict record"):
        read(tmp_path / "v", Verdict)
    (tmp_path / "v").write_text('{"recipe": "r"}')
    with pytest.raises(ArtifactError, match="variant"):
        read(tmp_path / "v", Verdict)


def window(nll: float, tokens: int, size: int = 1) -> Window:
    return Window(index=0, nll_nats=nll, tokens=tokens, bytes=size)


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    assert Perplexity(text="t", text_sha256="", windows=[window(10, 5), window(2, 1)]).value == pytest.approx(math.exp(2))
    assert math.isnan(Perplexity(text="t", text_sha256="", windows=[]).value)
    assert Perplexity(text="t", text_sha256="", windows=[window(1e6, 1)]).value == math.inf


def test_bits_per_byte_count_the_text_and_not_the_tokens() -> None:
    found = Perplexity(text="t", text_sha256="", windows=[window(10, 5, 20), window(2, 1, 4)])
    assert found.bits_per_byte == pytest.approx(12 / math.log(2) / 24)
    assert math.isnan(Perplexity(text="t", text_sha256="", windows=[window(1, 1, 0)]).bits_per_byte)
