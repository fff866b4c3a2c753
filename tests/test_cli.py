from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import __version__, cli
from pipeline.errors import RecipeError
from pipeline.planning import index, power
from pipeline.runtime import environments, machine
from tests.conftest import ROOT


def test_help_imports_nothing_heavy() -> None:
    """What keeps `quantgate --help` quick; the time itself is no matter for a test."""
    script = "import sys; from pipeline.cli import parser; parser().format_help(); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "pydantic", "numpy", "rich", "scipy", "dvc"} & set(done.stdout.split())


def test_no_torch_in_the_control_environment() -> None:
    with pytest.raises(ModuleNotFoundError):
        __import__("torch")


def test_user_errors_are_one_message_and_exit_code_2(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "tinny"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("quantgate: ")
    assert "Traceback" not in said.err
    assert cli.main(["quantize", "tiny", "ov-int44"]) == 2
    assert "Did you mean 'ov-int4'" in capsys.readouterr().err


def test_an_interrupt_says_where_the_earlier_output_is(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_stage", stop)
    monkeypatch.setattr(cli, "_doctor", stop)
    assert cli.main(["quantize", "tiny", "ov-int8"]) == 130
    assert "dvc checkout brings that back" in capsys.readouterr().err
    assert cli.main(["doctor"]) == 130
    assert "dvc" not in capsys.readouterr().err


def test_outside_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", "tiny"]) == 2
    assert "no dvc.yaml here" in capsys.readouterr().err


def test_the_launcher_finds_the_project_and_keeps_the_callers_paths(project: Path, tmp_path: Path) -> None:
    launcher = tmp_path / "quantgate"
    launcher.write_text(environments.LAUNCHER.format(python=sys.executable))
    run = [sys.executable, str(launcher), "signoff", "key", "x.pem", "--name", "a@example.org", "--role", "reviewer"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("is not inside a quantgate project")) == (2, 1)
    assert subprocess.run(run, cwd=project / "recipes", check=False).returncode == 0
    assert (project / "recipes" / "x.pem").is_file()


def test_stage_refuses_an_outdated_index(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_text("recipes: {}\n")
    assert cli.main(["pin", "tiny"]) == 2
    assert "quantgate index" in capsys.readouterr().err


def test_bare_and_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["quantgate"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "quantize" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"quantgate {__version__}\n")


def test_every_command_takes_a_recipes_name_or_its_path(project: Path) -> None:
    """A path is what a shell completes."""
    commands = {"pin", "quantize", "plan", "compare", "require", "benchmark", "publish"}
    for command in commands:
        variant = ["ov-int8"] if command in ("quantize", "publish") else []
        for asked in ("tiny", "recipes/tiny.yaml", str(Path("recipes/tiny.yaml").resolve())):
            more = ["--to", "x", "--key", "x"] if command == "publish" else []
            assert cli.parser().parse_args([command, asked, *variant, *more]).recipe == "tiny"
    assert cli.parser().parse_args(["plan", "elsewhere/tiny.yaml"]).recipe == "elsewhere/tiny.yaml"


def test_only_the_recipe_that_runs_must_be_in_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody edits another recipe, or writes a new one, while a chain runs for hours."""
    other = Path("recipes/qwen3-0.6b.yaml")
    other.write_text(other.read_text().replace("  ov-int8:", "  ov-int8-renamed:"))
    Path("recipes/new.yaml").write_text("model: {pa")
    index.check("tiny")
    for command in (["plan", "qwen3-0.6b"], ["pin", "qwen3-0.6b"]):
        assert cli.main(command) == 2
        assert "params.yaml: out of date with recipes/qwen3-0.6b.yaml. Run: quantgate index" in capsys.readouterr().err
    Path("recipes/new.yaml").unlink()
    assert cli.main(["index", "--check"]) == 2
    assert cli.main(["index"]) == 0
    index.check()
    index.check("qwen3-0.6b")


@pytest.mark.parametrize("text", ["", "[]", "recipes: 7", "variants: {tiny--ov-int8: {recipe: tiny}}"])
def test_what_is_no_index_is_out_of_date(project: Path, text: str) -> None:
    Path("params.yaml").write_text(text)
    with pytest.raises(RecipeError, match="quantgate index"):
        index.check("tiny")


def test_stage_before_its_inputs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gate", "tiny", "ov-int8"]) == 2
    assert "artifacts/evaluations/tiny/ov-int8.json: missing" in capsys.readouterr().err
    assert cli.main(["benchmark", "tiny"]) == 2
    assert "dvc repro gate@tiny--ov-bf16" in capsys.readouterr().err


def test_too_little_disk_is_said_before_quantizing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["pin", "tiny"]) == 0
    folder = Path("artifacts/calibration/tiny")
    folder.mkdir(parents=True)
    (folder / "samples.json").write_text(
        json.dumps({"prompts": "p", "seed": 0, "prompts_used": 1, "sha256": "", "overlap": 0, "overlap_limit": 0, "ids": []})
    )
    monkeypatch.setattr(machine, "free_bytes", lambda folder: 1000)
    assert cli.main(["quantize", "tiny", "gptq-int4"]) == 2
    assert "quantizing needs about" in capsys.readouterr().err
    assert not Path("artifacts/models/tiny/ov-int8").exists()


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RecursionError("too deep"), "quantgate doctor: RecursionError: too deep (at "),
        (MemoryError(), "quantgate doctor: MemoryError (at "),
        (PermissionError(13, "Permission denied", "artifacts/x.json"), "artifacts/x.json: Permission denied. The traceback"),
        (OSError(30, "Read-only file system", "params.yaml"), "params.yaml: Read-only file system. The traceback"),
        (FileNotFoundError(2, "No such file or directory", "git"), "git: no such program or file. Install it, or put it on PATH."),
    ],
)
def test_what_nobody_foresaw_is_a_sentence_and_exit_code_2(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: Exception, said: str
) -> None:
    def fail() -> None:
        raise raised

    monkeypatch.setattr("pipeline.planning.doctor.show", fail)
    assert cli.main(["doctor"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"quantgate: {said}")
    assert err.count("\n") == 1
    log = Path(err.split()[-1])
    assert log.is_relative_to("artifacts/.tmp")
    assert type(raised).__name__ in log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can only be mounted by root")
def test_full_disk_is_one_message_and_leaves_nothing_half(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts = Path("artifacts")
    artifacts.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(artifacts)], check=False)
    if mounted.returncode:
        pytest.skip("this sandbox does not let tests mount a file system")
    try:
        (artifacts / "filler").write_bytes(b"")
        with (artifacts / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(b"x" * 512)
        assert cli.main(["pin", "tiny"]) == 2
        assert "the disk is full" in capsys.readouterr().err
        assert [path.name for path in artifacts.rglob("*.json")] == []
    finally:
        subprocess.run(["umount", str(artifacts)], check=True)


def test_plan_and_doctor_and_schema(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "count_items", lambda name, recipe: dict.fromkeys(recipe.evaluate.tasks, 2500))
    assert cli.main(["plan", "llama-3.1-8b-instruct"]) == 0
    said = capsys.readouterr().out
    assert "quantize gptq-int4" in said
    assert " h " in said
    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert [name for name in environments.NAMES if f"environment {name} " not in told] == []
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Recipe"
