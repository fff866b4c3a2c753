"""`quantgate compare`, and two runs of one recipe beside each other."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, paths
from pipeline.report.changes import changes
from tests import timed_summaries as make
from tests.test_comparison import section


def test_two_runs_beside_each_other() -> None:
    rows = make.variants()
    rows["ov-int4"] = make.variant("ov-int4", speed=400, kl=0.004)
    rows["ov-int4"]["verdict"]["candidate_sha256"] = "new"
    rows["ov-int4"]["manifest"]["versions"]["nncf"] = "3.5.0"
    del rows["rounded-int2"]
    found = changes(make.summary(), make.summary(rows))
    changed = section(found, "ov-int4")
    assert [one.variant for one in changed.rows] == ["ov-int4 before", "ov-int4 after"]
    assert changed.winners["tokens_per_s_at_1"] == "ov-int4 after"
    assert "Another artifact. Versions changed: nncf 3.4.0 to 3.5.0." in changed.note
    assert (
        "Mean KL deployed text: 0.006 (0.0054 to 0.0066) before, 0.004 (0.0036 to 0.0044) now:"
        " better." in changed.note
    )
    assert "Perplexity ratio deployed text" in changed.note
    assert "the intervals overlap" in changed.note
    same = section(found, "ov-int8")
    assert set(same.winners.values()) == {None}
    assert same.note.startswith(
        "The artifact is the same, byte for byte. Verdict: PASS, as before."
    )
    assert "Only before" in section(found, "rounded-int2").note
    assert found.recommendations == []


def test_two_runs_that_differ_in_more_say_so() -> None:
    rows = make.variants()
    rows["ov-int8"]["verdict"]["status"] = "INCONCLUSIVE"
    for one in rows.values():
        one["benchmark"]["machine"] = {"cpu": "Y", "cores": 2}
    after = make.summary(rows)
    after = after.model_copy(
        update={"calibration": after.calibration.model_copy(update={"sha256": "other"})}
    )
    found = section(changes(make.summary(), after), "ov-int8")
    assert found.note.startswith("The two runs differ in: calibration samples.")
    assert "Verdict: PASS before, INCONCLUSIVE now." in found.note
    assert found.winners["tokens_per_s_at_1"] is None
    assert "left out" in found.reasons["tokens_per_s_at_1"]
    assert found.ties["tokens_per_s_at_1"] == "nothing to compare"


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "dvc.yaml").write_text("")
    path = paths.report("tiny", "json")
    path.parent.mkdir(parents=True)
    found = make.summary()
    found.write(path)
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def test_the_command_shows_tables_and_recommendations(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", "tiny"]) == 0
    said = capsys.readouterr().out
    assert "tiny: Like for like: 4-bit weights in groups of 128" in said
    assert "* 270" in said
    assert "lowest latency: ov-int8." in said


def test_the_command_prints_json(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == report["comparison"]


def test_the_command_compares_with_an_earlier_run(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = copy.deepcopy(report)
    before["variants"]["ov-int8"] = make.variant(
        "ov-int8", weights="int8", speed=100, kl=0.0005, rounding=make.INT8
    )
    Path("before.json").write_text(json.dumps(before))
    assert cli.main(["compare", "tiny", "--before", "before.json"]) == 0
    said = capsys.readouterr().out
    assert "ov-int8 before" in said
    assert "* 301" in said
    assert "* the best" in said


def test_two_equal_runs_say_so_and_no_more(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("before.json").write_text(json.dumps(report))
    assert cli.main(["compare", "tiny", "--before", "before.json"]) == 0
    said = capsys.readouterr().out
    assert "No winner (their intervals overlap): Output tokens/s at concurrency 1" in said
    assert "Load time" in said
    assert "*" not in said
    assert "│ TTFT" not in said


def test_a_narrow_terminal_cuts_no_figure(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["compare", "tiny"]) == 0
    said = capsys.readouterr().out
    assert "…" not in said
    assert all(name in said for name in report["variants"])
    assert max(map(len, said.splitlines())) <= 80


def test_another_recipes_report_is_refused(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("before.json").write_text(json.dumps({**report, "recipe": "other"}))
    assert cli.main(["compare", "tiny", "--before", "before.json"]) == 2
    assert (
        "before.json: the report of recipe 'other', expected one of 'tiny'"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("artifacts/reports/tiny.json", None, "dvc repro report@tiny"),
        (
            "artifacts/reports/tiny.json",
            '{"variants": {"a": {"benchmark": {"levels": []}}}}',
            "dvc repro report@tiny",
        ),
        ("artifacts/reports/tiny.json", "[]", "not a report of this version"),
        ("before.json", None, "dvc get . artifacts/reports/tiny.json --rev HEAD~1 -o before.json"),
        ("before.json", "{", "not a report of this version"),
    ],
)
def test_a_report_that_is_missing_or_old_is_an_error_with_the_remedy(
    report: dict[str, Any],
    name: str,
    text: str | None,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("before.json").write_text(json.dumps(report))
    Path(name).unlink()
    if text is not None:
        Path(name).write_text(text)
    assert cli.main(["compare", "tiny", "--before", "before.json"]) == 2
    assert words in capsys.readouterr().err
