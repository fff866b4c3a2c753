from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.errors import ArtifactError
from pipeline.records import Check, Perplexity, Verdict, Window, read


def test_a_verdict_with_nan_survives_the_file(tmp_path: Path) -> None:
    nan = math.nan
    check = Check(
        kind="c",
        status="FAIL",
        value=nan,
        low=-math.inf,
        high=math.inf,
        limit=1,
        n=0,
        method="m",
        reason="ä",
    )
    Verdict(
        recipe="r",
        variant="v",
        status="FAIL",
        checks=[check],
        tasks=[],
        tails=[],
        reference_sha256="a",
        candidate_sha256="b",
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
    assert Perplexity(
        text="t", text_sha256="", windows=[window(10, 5), window(2, 1)]
    ).value == pytest.approx(math.exp(2))
    assert math.isnan(Perplexity(text="t", text_sha256="", windows=[]).value)
    assert Perplexity(text="t", text_sha256="", windows=[window(1e6, 1)]).value == math.inf


def test_bits_per_byte_count_the_text_and_not_the_tokens() -> None:
    found = Perplexity(text="t", text_sha256="", windows=[window(10, 5, 20), window(2, 1, 4)])
    assert found.bits_per_byte == pytest.approx(12 / math.log(2) / 24)
    assert math.isnan(Perplexity(text="t", text_sha256="", windows=[window(1, 1, 0)]).bits_per_byte)


@pytest.mark.parametrize(
    ("name", "kind", "view", "of"),
    [
        ("accuracy_drop", "accuracy_drop", "", ""),
        ("task_drop world_facts", "task_drop", "", "world_facts"),
        ("mean_kl weights tiny-text", "mean_kl", "weights", "tiny-text"),
        ("long_context_kl deployed text 0-255", "long_context_kl", "deployed", "text 0-255"),
        ("deployed text", "", "deployed", "text"),
    ],
)
def test_a_check_has_fields_and_its_file_the_name(name: str, kind: str, view: str, of: str) -> None:
    numbers = {"value": 0.1, "low": 0.0, "high": 0.2, "limit": 1.0, "n": 3}
    stored = {"name": name, "status": "PASS", **numbers, "method": "m", "reason": "r"}
    check = Check.model_validate(stored)
    assert (check.kind, check.view, check.of, check.name) == (kind, view, of, name)
    assert check == Check(
        kind=kind, view=view, of=of, status="PASS", **numbers, method="m", reason="r"
    )
    assert list(check.model_dump(mode="json").items()) == list(stored.items())
