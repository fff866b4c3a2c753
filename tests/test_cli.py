from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import click.shell_completion
import pytest

from pipeline import __version__, cli, cli_parameters
from pipeline.errors import DiskFull, RecipeError
from pipeline.planning import index, power
from pipeline.runtime import environments, machine
from tests.conftest import ROOT, parsed

QUANTGATE = [sys.executable, "-c", "import sys; from pipeline.cli import main; sys.exit(main())"]


def test_help_imports_nothing_heavy() -> None:
    """What keeps `quantgate --help` quick; the time itself is no matter for a test."""
    script = (
        "import sys; from pipeline.cli import main; main(['--help']); print(*sorted(sys.modules),"
        " file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "pydantic", "numpy", "rich", "scipy", "dvc"} & set(done.stderr.split())
    assert "quantize" in done.stdout


def test_no_torch_in_the_control_environment() -> None:
    with pytest.raises(ModuleNotFoundError):
        __import__("torch")


def test_user_errors_are_one_message_and_exit_code_2(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", "tinny"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("quantgate: ")
    assert "Traceback" not in said.err
    assert cli.main(["quantize", "tiny", "ov-int44"]) == 2
    assert "Did you mean 'ov-int4'" in capsys.readouterr().err


def test_an_interrupt_says_where_the_earlier_output_is(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.stages.quantize.run", stop)
    monkeypatch.setattr("pipeline.planning.doctor.show", stop)
    assert cli.main(["quantize", "tiny", "ov-int8"]) == 130
    assert capsys.readouterr() == ("", f"quantgate: {cli.STOPPED} {cli_parameters.CHECKOUT}\n")
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr() == ("", f"quantgate: {cli.STOPPED}\n")


def test_outside_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", "tiny"]) == 2
    assert "no dvc.yaml here" in capsys.readouterr().err


def test_the_launcher_finds_the_project_and_keeps_the_callers_paths(
    project: Path, tmp_path: Path
) -> None:
    launcher = tmp_path / "quantgate"
    launcher.write_text(environments.LAUNCHER.format(python=sys.executable))
    run = [
        sys.executable,
        str(launcher),
        "signoff",
        "key",
        "x.pem",
        "--name",
        "a@example.org",
        "--role",
        "reviewer",
    ]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("is not inside a quantgate project")) == (2, 1)
    set_in_containers = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(run, cwd=project / "recipes", env=set_in_containers, check=False)
    assert done.returncode == 0
    assert (project / "recipes" / "x.pem").is_file()
    assert list((project / "pipeline" / "__pycache__").glob("cli.*.pyc"))  # for the next start


def test_stage_refuses_an_outdated_index(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_text("recipes: {}\n")
    assert cli.main(["pin", "tiny"]) == 2
    assert "quantgate index" in capsys.readouterr().err


def test_bare_and_version(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["quantgate"])
    assert cli.main() == 0
    assert "quantize" in capsys.readouterr().out
    assert (cli.main(["--version"]), capsys.readouterr().out) == (0, f"quantgate {__version__}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("doctr", "No such command 'doctr'. Did you mean 'doctor'? See: quantgate --help"),
        ("plan", "Missing argument 'RECIPE'. See: quantgate plan --help"),
        (
            "plan tiny --jsn",
            "No such option '--jsn'. Did you mean '--json'? See: quantgate plan --help",
        ),
        ("signoff", "Missing command. See: quantgate signoff --help"),
        ("signoff show tiny", "Missing argument 'VARIANT'. See: quantgate signoff show --help"),
        (
            "serve x --port many",
            (
                "Invalid value for '--port': 'many' is not a valid integer. See: quantgate serve"
                " --help"
            ),
        ),
        (
            "signoff approve tiny ov-int8 --key k --until 2026-13-40",
            (
                "Invalid value for '--until': '2026-13-40' does not match the format '%Y-%m-%d'."
                " See: quantgate signoff approve --help"
            ),
        ),
    ],
)
def test_a_wrong_word_is_one_sentence(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words.split()) == 2
    assert capsys.readouterr() == ("", f"quantgate: {said}\n")


def test_a_reader_that_has_had_enough_is_no_verdict(root: Path) -> None:
    with subprocess.Popen(
        [*QUANTGATE, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as schema:
        assert schema.stdout is not None
        schema.stdout.close()
        assert schema.wait() != 1  # which is: not passed


def lines(found: click.Group) -> Iterator[cli_parameters.Command]:
    for command in found.commands.values():
        if isinstance(command, click.Group):
            yield from lines(command)
        else:
            assert isinstance(command, cli_parameters.Command)
            yield command


@pytest.mark.parametrize("line", [*lines(cli.quantgate)], ids=lambda line: line.function)
def test_each_line_of_the_table_calls_a_function_that_takes_what_it_gives(
    line: cli_parameters.Command,
) -> None:
    module, _, name = line.function.partition(":")
    signature = inspect.signature(getattr(importlib.import_module(f"pipeline.{module}"), name))
    given = [param for param in line.params if isinstance(param, click.Argument)]
    options = {param.name: None for param in line.params if isinstance(param, click.Option)}
    bound = signature.bind(*given, **options).arguments
    assert all(name in signature.parameters for name in options)
    for taken, param in zip(
        bound, given, strict=False
    ):  # arguments are given in their order: recipe, variant
        assert taken in {param.name, *({"name"} if param.name == "recipe" else {"variant_name"})}


def completed(words: str, incomplete: str) -> list[str]:
    complete = click.shell_completion.ShellComplete(
        cli.quantgate, {}, "quantgate", "_QUANTGATE_COMPLETE"
    )
    return [item.value for item in complete.get_completions(words.split(), incomplete)]


def test_a_shell_completes_commands_recipes_and_variants(root: Path) -> None:
    assert completed("", "qu") == ["quantize", "quantizers"]
    assert completed("plan", "ti") == ["tiny"]
    assert completed("signoff show", "qwen3-") == ["qwen3-0.6b", "qwen3-8b"]
    assert completed("quantize tiny", "ov-i") == ["ov-int8", "ov-int4"]
    assert completed("quantize recipes/tiny.yaml", "ov-i") == ["ov-int8", "ov-int4"]
    assert completed("quantize no-such", "ov-i") == []
    assert completed("plan tiny", "--j") == ["--json"]


def test_the_completion_script_is_a_shells(root: Path) -> None:
    asked = {**os.environ, "_QUANTGATE_COMPLETE": "bash_source"}
    done = subprocess.run([*QUANTGATE, "x"], env=asked, capture_output=True, text=True, check=True)
    assert "complete -o nosort -F _quantgate_completion quantgate" in done.stdout
    asked = {
        **os.environ,
        "_QUANTGATE_COMPLETE": "bash_complete",
        "COMP_WORDS": "quantgate plan ti",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(QUANTGATE, env=asked, capture_output=True, text=True, check=True)
    assert done.stdout == "plain,tiny\n"


def test_every_command_takes_a_recipes_name_or_its_path(project: Path) -> None:
    """A path is what a shell completes."""
    commands = {"pin", "quantize", "plan", "compare", "require", "benchmark", "publish"}
    for command in commands:
        variant = ["ov-int8"] if command in ("quantize", "publish") else []
        for asked in ("tiny", "recipes/tiny.yaml", str(Path("recipes/tiny.yaml").resolve())):
            more = ["--to", "x", "--key", "x"] if command == "publish" else []
            assert parsed(command, asked, *variant, *more)["recipe"] == "tiny"
    assert parsed("plan", "elsewhere/tiny.yaml")["recipe"] == "elsewhere/tiny.yaml"


def test_only_the_recipe_that_runs_must_be_in_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody edits another recipe, or writes a new one, while a chain runs for hours."""
    other = Path("recipes/qwen3-0.6b.yaml")
    other.write_text(other.read_text().replace("  ov-int8:", "  ov-int8-renamed:"))
    Path("recipes/new.yaml").write_text("model: {pa")
    index.check("tiny")
    for command in (["plan", "qwen3-0.6b"], ["pin", "qwen3-0.6b"]):
        assert cli.main(command) == 2
        assert (
            "params.yaml: out of date with recipes/qwen3-0.6b.yaml. Run: quantgate index"
            in capsys.readouterr().err
        )
    Path("recipes/new.yaml").unlink()
    assert cli.main(["index", "--check"]) == 2
    assert cli.main(["index"]) == 0
    index.check()
    index.check("qwen3-0.6b")


@pytest.mark.parametrize(
    "text", ["", "[]", "recipes: 7", "variants: {tiny--ov-int8: {recipe: tiny}}"]
)
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
        json.dumps(
            {
                "prompts": "p",
                "seed": 0,
                "prompts_used": 1,
                "sha256": "",
                "overlap": 0,
                "overlap_limit": 0,
                "ids": [],
            }
        )
    )
    monkeypatch.setattr(machine, "free_bytes", lambda folder: 1000)
    assert cli.main(["quantize", "tiny", "gptq-int4"]) == DiskFull.exit_code
    assert "quantizing needs about" in capsys.readouterr().err
    assert not Path("artifacts/models/tiny/ov-int8").exists()


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RecursionError("too deep"), "quantgate doctor: RecursionError: too deep (at "),
        (MemoryError(), "quantgate doctor: out of memory. Stop other programs"),
        (
            PermissionError(13, "Permission denied", "artifacts/x.json"),
            "artifacts/x.json: Permission denied. Give yourself the right to it",
        ),
        (
            OSError(30, "Read-only file system", "params.yaml"),
            "params.yaml: Read-only file system. Make it writable",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "git"),
            "git: no such program or file. Install it, or put it on PATH.",
        ),
    ],
)
def test_what_nobody_foresaw_is_a_sentence(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: Exception,
    said: str,
) -> None:
    def fail(as_json: bool) -> None:
        raise raised

    monkeypatch.setattr("pipeline.planning.doctor.show", fail)
    assert cli.main(["doctor"]) == (5 if isinstance(raised, MemoryError) else 2)
    err = capsys.readouterr().err
    assert err.startswith(f"quantgate: {said}")
    assert err.count("\n") == 1
    log = Path(err.split()[-1])
    assert log.is_relative_to("artifacts/.tmp")
    assert type(raised).__name__ in log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can only be mounted by root")
def test_full_disk_is_one_message_and_leaves_nothing_half(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifacts = Path("artifacts")
    artifacts.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(artifacts)], check=False
    )
    if mounted.returncode:
        pytest.skip("this sandbox does not let tests mount a file system")
    try:
        (artifacts / "filler").write_bytes(b"")
        with (artifacts / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(b"x" * 512)
        assert cli.main(["pin", "tiny"]) == DiskFull.exit_code
        assert "the disk is full" in capsys.readouterr().err
        assert [path.name for path in artifacts.rglob("*.json")] == []
    finally:
        subprocess.run(["umount", str(artifacts)], check=True)


def test_plan_and_doctor_and_schema(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        power, "count_items", lambda recipe: dict.fromkeys(recipe.evaluate.tasks, 2500)
    )
    assert cli.main(["plan", "llama-3.1-8b-instruct"]) == 0
    said = capsys.readouterr().out
    assert "quantize gptq-int4" in said
    assert " h " in said
    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert [name for name in environments.NAMES if f"environment {name} " not in told] == []
    assert cli.main(["doctor", "--json"]) == 0
    assert {"part": "environment control", "state": "installed"}.items() <= json.loads(
        capsys.readouterr().out
    )[0].items()
    assert cli.main(["plan", "llama-3.1-8b-instruct", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["stages"][0]["stage"] == "pin"
    assert {row["task"] for row in plan["decided"]} == {
        "mmlu",
        "hellaswag",
        "arc_challenge",
        "all pooled",
    }
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Recipe"
