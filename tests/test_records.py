from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.errors import ArtifactError
from pipeline.records import Check, Perplexity, Verdict, Window, read


def test_a_verdict_with_nan_survives_the_file(tmp_path: Path) -> None:
    nan = math.nan
    check = Check(name="c", status="FAIL", value=nan, low=-math.inf, high=math.inf, limit=1, n=0, method="m", reason="ä")
    Verdict(recipe="r", variant="v", status="FAIL", checks=[check], reference_sha256="a", candidate_sha256="b").write(
        tmp_path / "v"
    )
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


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    windows = [Window(nll_nats=10.0, tokens=5), Window(nll_nats=2.0, tokens=1)]
    assert Perplexity(text="t", text_sha256="", windows=windows).value == pytest.approx(math.exp(2))
    assert math.isnan(Perplexity(text="t", text_sha256="", windows=[]).value)
    assert Perplexity(text="t", text_sha256="", windows=[Window(nll_nats=1e6, tokens=1)]).value == math.inf
