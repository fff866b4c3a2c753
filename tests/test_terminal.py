"""What ends a run: a row a variant, and below the table every reason once, as wide as the
terminal."""

from __future__ import annotations

import itertools
import re

import pytest

from pipeline import paths, recipe, records
from pipeline.report import terminal

KINDS = ("perplexity_ratio", "mean_kl", "p99_kl", "top1_agreement")
LONG = (
    "mean KL is 0.0112 nats per token (0.0088 to 0.0136), the limit is 0.01: its interval holds the"
    " limit, and more windows of the text would narrow it; the recipe's evaluate.perplexity has 20"
)
FEW = "20 windows are fewer than the 24 from which an interval of this kind can be believed"


def check(name: str, status: records.Status, reason: str) -> records.Check:
    asked = records.Question.named(name)._asdict()
    return records.Check(
        **asked, status=status, value=1, low=0, high=2, limit=1, n=20, method="t", reason=reason
    )


def judge(variant: str, status: records.Status, checks: list[records.Check]) -> None:
    path = paths.verdict("tiny", variant)
    found = records.read(path, records.Verdict)
    found.model_copy(update={"status": status, "checks": checks}).write(path)


@pytest.fixture
def undecided(measured: recipe.Recipe) -> list[str]:
    """Two variants of which no check was decided: six times for a reason of both, twice for one of
    its own."""
    for number, variant in enumerate(measured.variants):
        own = f"{LONG} of {number}"
        of_all = [check(f"{kind} {view} x", "INCONCLUSIVE", FEW) for kind in KINDS if kind
                  != "mean_kl" for view in records.VIEWS]  # fmt: skip
        of_own = [check(f"mean_kl {view} x", "INCONCLUSIVE", own) for view in records.VIEWS]
        judge(variant, "INCONCLUSIVE", [*of_all, *of_own])
    return list(measured.variants)


def shown(capsys: pytest.CaptureFixture[str], variants: list[str]) -> list[str]:
    capsys.readouterr()
    terminal.show("tiny", variants)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_each_reason_is_said_once_and_as_wide_as_the_terminal(
    undecided: list[str],
    width: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = shown(capsys, undecided)
    text = re.sub(r"\s+", " ", " ".join(lines))
    assert text.count(FEW) == 1
    assert [text.count(f"{LONG} of {number}") for number in range(2)] == [1, 1]
    assert max(map(len, lines)) <= width
    below = lines[lines.index("INCONCLUSIVE") + 1 :]
    assert all(line.startswith("  ") for line in below)
    # no line could have taken the first word of the next, unless that begins a reason
    for line, following in itertools.pairwise(below):
        first = following.split()[0]
        assert len(line.rstrip()) + 1 + len(first) > width or first.rstrip(":,") in undecided
    assert len(lines) < 40


def test_the_table_names_what_did_not_pass(
    undecided: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    judge("ov-bf16", "PASS", [check("accuracy_drop", "PASS", "no drop")])
    bare = check("", "FAIL", "weights are NaN").model_copy(update={"kind": "loads"})
    judge("ov-int8", "FAIL", [check("mean_kl weights x", "INCONCLUSIVE", LONG), bare])
    lines = shown(capsys, undecided)
    (passed,) = [line for line in lines if "│ ov-bf16" in line]
    (failed,) = [line for line in lines if "│ ov-int8" in line]
    assert "none of 1" in passed
    assert "mean_kl, loads" in failed
    assert lines.index("FAIL") < lines.index("INCONCLUSIVE")
    assert "  ov-int8: loads: weights are NaN" in [line.rstrip() for line in lines]


def test_a_speed_that_was_asked_for_has_its_reason(
    measured: recipe.Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    path = paths.recipe("tiny")
    path.write_text(path.read_text().replace("  p99_kl:", "  speedup: {int8: 1.6}\n  p99_kl:"))
    lines = shown(capsys, ["ov-int8"])
    assert "none of 13" in " ".join(lines)
    assert lines[lines.index("NOT FASTER") + 1].startswith("  ov-int8: speed: accurate but not")
