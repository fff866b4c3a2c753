"""`quantgate artifacts` and `quantgate clean`: what no recipe names goes, what a recipe or DVC has
stays."""

from __future__ import annotations

import fcntl
import io
import os
import sys
from pathlib import Path

import pytest

from pipeline import cli, paths, recipe
from pipeline.evidence import clean, inventory
from pipeline.planning import index
from tests.conftest import commit_all

KEPT = (
    "models/tiny/ov-int8/openvino_model.bin",
    "manifests/tiny/ov-int8.json",
    "evaluations/tiny/reference.json",
    "evaluations/tiny/ov-int8.json",
    "checkpoints/tiny.json",
    "sources/tiny/model.safetensors",
    "sources/tiny.lock",
    "logprobs/tiny/tiny-text.npy",
    "reports/tiny.html",
    "reports/qwen2.5-0.5b-instruct.json",
    "cards/tiny/ov-int8.md",
    "audits/tiny/somebody/report.json",
    "costs/evaluate@tiny--somebody.json",
    "logs/evaluate.tiny--somebody.job.log",
    "models/.gitignore",
    "costs/quantize@tiny--ov-int8.json",
    "logs/quantize.tiny--ov-int8.log",
    "logs/evaluate.tiny--ov-int8.job.log",
    "logs/benchmark.tiny.ov-int8.deployed.log",
    "logs/pin.qwen2.5-0.5b-instruct.log",
    "logs/speed.log",
    ".tmp/quantize.gone--ov-int8.lock",
    ".tmp/errors/one.txt",
    f".tmp/ov-int8.json.{os.getpid()}",
)
LEFT = (
    "models/tiny/ov-int3/model.safetensors",
    "evaluations/tiny/ov-int3.json",
    "http/tiny/ov-int3.timings.json",
    "rungs/tiny/ov-small/0a1b/model/openvino_model.bin",
    "models/gone/ov-int8/openvino_model.bin",
    "evaluations/gone/reference.json",
    "checkpoints/gone.json",
    "sources/gone/model.safetensors",
    "sources/gone.lock",
    "calibration/gone/samples.json",
    "reports/gone-2.5b.md",
    "cards/gone/ov-int8.md",
    "audits/gone/somebody/report.json",
    "costs/pin@gone.json",
    "costs/quantize@tiny--ov-int3.json",
    "logs/pin.gone-2.5b.log",
    "logs/evaluate.tiny--ov-int3.job.log",
    "logs/benchmark.gone.ov-int8.deployed.log",
    ".tmp/quantize.gone--ov-int8/model.bin",
    ".tmp/ov-int8.json.999999999",
)


@pytest.fixture
def stocked(project: Path) -> Path:
    for name in (*KEPT, *LEFT):
        path = paths.ARTIFACTS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
    commit_all()  # without git there is no DVC
    return project


def there(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if (paths.ARTIFACTS / name).is_file()]


def test_clean_removes_what_no_recipe_names(
    stocked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["clean", "--yes"]) == 0
    said = capsys.readouterr().out
    assert there(KEPT) == list(KEPT)
    assert there(LEFT) == []
    assert not (paths.ARTIFACTS / "models" / "gone").exists()
    assert "    0.0 MB  artifacts/models/tiny/ov-int3\n" in said
    assert f"Removed {len(LEFT)}, 0.0 MB." in said
    assert cli.main(["clean"]) == 0
    assert "Nothing to remove" in capsys.readouterr().out


@pytest.mark.parametrize(("answer", "stay"), [("n\n", True), ("y\n", False)])
def test_clean_asks(
    stocked: Path, monkeypatch: pytest.MonkeyPatch, answer: str, stay: bool
) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert cli.main(["clean"]) == 0
    assert there(LEFT) == (list(LEFT) if stay else [])


def test_where_nobody_can_be_asked_nothing_is_removed(
    stocked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert cli.main(["clean"]) == 2
    assert "Nobody can be asked here: give --yes." in capsys.readouterr().err
    assert there(LEFT) == list(LEFT)


def test_what_dvc_still_has_stays(stocked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe whose file is gone is DVC's until the index is in line; and no rule of ours goes
    before DVC's list."""
    paths.recipe("tiny").unlink()
    assert cli.main(["clean", "--yes"]) == 2
    assert "Run: quantgate index" in capsys.readouterr().err
    assert there((*KEPT, *LEFT)) == [*KEPT, *LEFT]
    index.write()
    assert cli.main(["clean", "--yes"]) == 0
    assert there(
        ("models/tiny/ov-int8/openvino_model.bin", "reports/qwen2.5-0.5b-instruct.json")
    ) == ["reports/qwen2.5-0.5b-instruct.json"]


def test_an_output_its_folder_and_its_files_are_dvcs(stocked: Path) -> None:
    tracked = clean._tracked()
    assert {
        Path("artifacts/models/tiny/ov-int8").resolve(),
        Path("artifacts/reports/tiny.html").resolve(),
    } <= tracked
    for path in (
        "artifacts/models/tiny/ov-int8",
        "artifacts/models/tiny",
        "artifacts/models/tiny/ov-int8/openvino_model.bin",
    ):
        assert clean._touches(Path(path), tracked)
    assert not clean._touches(Path("artifacts/models/tiny/ov-int3"), tracked)


def test_artifacts_lists_sizes_and_verdicts(
    stocked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.main(["artifacts"]) == 0
    said = capsys.readouterr().out
    rows = {tuple(line.split()[1:4:2]): line for line in said.splitlines() if line.startswith("│")}
    assert "not judged" in rows["tiny", "ov-int8"]
    assert "no recipe names it any more" in rows["tiny", "ov-int3"]
    assert "no recipe names it any more" in rows["gone", "ov-int8"]
    assert f"{len(LEFT)} of all these are left over" in said


def test_what_a_running_stage_holds_is_no_leftover(stocked: Path) -> None:
    folder = paths.TEMPORARY / "quantize.gone--ov-int8"
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cli.main(["clean", "--yes"]) == 0
        assert (folder / "model.bin").is_file()
    assert cli.main(["clean", "--yes"]) == 0
    assert not folder.exists()


def test_a_verdict_that_holds_no_more_is_listed_as_such(
    measured: recipe.Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")

    def listed() -> tuple[dict[str, str], str]:
        assert cli.main(["artifacts", "--check"]) == 0
        said = capsys.readouterr().out
        rows = [line.split("│") for line in said.splitlines() if line.startswith("│")]
        return {row[2].strip(): row[4].strip() for row in rows}, said

    assert listed()[0] == {"ov-bf16": "PASS", "ov-int8": "PASS"}
    paths.gate("tiny", "ov-int8").write_text("FAIL\n")
    found, said = listed()
    assert found == {"ov-bf16": "PASS", "ov-int8": "PASS, not current"}
    assert "verdicts/tiny/ov-int8.json: out of date: the gate's word is another" in said
    paths.benchmark("tiny", "ov-int8").unlink()
    found, said = listed()
    assert found["ov-int8"] == "PASS, not current"
    assert "benchmarks/tiny/ov-int8.json: missing" in said


def test_a_file_of_several_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 1000)
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    assert inventory.size_bytes(tmp_path) == 1000


def test_without_dvcs_word_nothing_is_removed(
    stocked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("dvc.yaml").write_text("stages: 7")
    assert cli.main(["clean", "--yes"]) == 2
    assert "DVC cannot say what it tracks" in capsys.readouterr().err
    assert there(LEFT) == list(LEFT)
