"""The store: what a stage made is found by all that it depends on, and believed by its hash."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import cli, paths
from pipeline.cli_parameters import Kept
from pipeline.errors import ArtifactError, RegistryError, Tampered
from pipeline.reading import yaml
from pipeline.records import Result, artifact
from pipeline.store import graph, inputs, kept, results
from pipeline.store.results import Store
from tests import evaluations as make
from tests.conftest import ROOT

DVC_YAML = """
stages:
  quantize:
    foreach: {tiny--x: {settings: recipes/tiny.yaml}, tiny--y: {settings: recipes/tiny.yaml}}
    do:
      cmd: quantgate quantize ${key}
      params:
        - ${item.settings}: [variants.x]
      deps: [code, source.txt]
      outs:
        - artifacts/models/${key}
        - artifacts/manifests/${key}.json
        - artifacts/rungs/${key}: {cache: false, persist: true}
  benchmark:
    foreach: {tiny: {}}
    do:
      cmd: quantgate benchmark ${key}
      deps: [source.txt]
      outs:
        - artifacts/timings/${key}
"""
STAGE = "quantize@tiny--x"
MODEL, MANIFEST = Path("artifacts/models/tiny--x"), Path("artifacts/manifests/tiny--x.json")
FILES = {MODEL / "w.bin": b"weights" * 1000, MODEL / "deep" / "config.json": b"{}", MANIFEST: b"[]"}


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path.name}"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two stages, as the working folder."""
    folder = tmp_path / "small"
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    for name, text in {
        "dvc.yaml": DVC_YAML,
        ".dvcignore": "*.pyc\n",
        "recipes/tiny.yaml": "variants: {x: {bits: 4}, y: {bits: 8}}\nother: 1\n",
        "code/a.py": "a",
        "source.txt": "source",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def store(url: str, small: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("QUANTGATE_STORE", url)
    return Store(url)


def work() -> None:
    for path, content in FILES.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    Path("artifacts/rungs/tiny--x").mkdir(parents=True, exist_ok=True)


def never() -> None:
    raise AssertionError("the stage was run")


def made(stage: str = STAGE) -> Result:
    """The stored result of a stage as the project is now."""
    key, configured = inputs.here(stage).key, kept.configured()
    assert key is not None and configured is not None
    result = configured.find(key)
    assert result is not None
    return result


def clear() -> None:
    """As DVC does before it runs a stage."""
    shutil.rmtree("artifacts")


def test_what_was_made_is_put_into_place(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    kept.run(STAGE, work)
    clear()
    kept.run(STAGE, never)
    assert {path: path.read_bytes() for path in FILES} == FILES
    assert Path("artifacts/rungs/tiny--x").is_dir()
    assert "quantize@tiny--x: taken from the store" in capsys.readouterr().out
    assert not list(paths.TEMPORARY.glob("*/"))


def test_without_a_store_the_stage_runs(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "here", lambda name: pytest.fail("DVC was asked"))
    for value in (None, "", "  "):
        if value is not None:
            monkeypatch.setenv("QUANTGATE_STORE", value)
        kept.run(STAGE, work)
        assert MANIFEST.is_file()
        clear()


@pytest.mark.parametrize(
    ("name", "text", "same"),
    [
        ("recipes/tiny.yaml", "variants: {x: {bits: 5}, y: {bits: 8}}\nother: 1\n", False),
        ("recipes/tiny.yaml", "variants: {y: {bits: 9}, x: {bits: 4}}  # said\nother: 2\n", True),
        ("code/a.py", "b", False),
        ("code/b.py", "", False),
        ("code/a.pyc", "compiled", True),
        ("source.txt", "another", False),
        ("elsewhere.txt", "another", True),
        ("dvc.yaml", DVC_YAML.replace("quantgate quantize", "quantgate quantize -v"), False),
    ],
)
def test_the_key_is_what_dvc_says_the_stage_depends_on(
    small: Path, name: str, text: str, same: bool
) -> None:
    before = inputs.here(STAGE).key
    Path(name).write_text(text)
    assert (inputs.here(STAGE).key == before) is same


def test_a_renamed_file_is_another_key(small: Path) -> None:
    before = inputs.here(STAGE).key
    Path("code/a.py").rename("code/c.py")
    assert inputs.here(STAGE).key != before


def test_each_stage_has_its_own_key(small: Path) -> None:
    assert inputs.here(STAGE).key != inputs.here("quantize@tiny--y").key


def test_an_input_that_is_not_there_is_the_stage_s_to_say(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("source.txt").unlink()
    kept.run(STAGE, work)
    assert "not put into the store: an input was not there" in capsys.readouterr().err


def test_a_stage_that_dvc_does_not_know(store: Store) -> None:
    with pytest.raises(ArtifactError, match=r"dvc\.yaml: .*quantize@none"):
        kept.run("quantize@none", never)


def damage_object(file: Path) -> None:
    file.write_bytes(b"W" + file.read_bytes()[1:])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")


@pytest.mark.parametrize("change", [damage_object, lengthen])
def test_a_damaged_object_is_refused(
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
) -> None:
    monkeypatch.setenv("QUANTGATE_STORE", str(tmp_path / "store"))
    kept.run(STAGE, work)
    largest = max((tmp_path / "store" / "objects").rglob("*"), key=lambda file: file.stat().st_size)
    change(largest if largest.is_file() else next(largest.iterdir()))
    clear()
    with pytest.raises(Tampered, match=rf"{MODEL}/w\.bin.*Remove it there.*QUANTGATE_STORE="):
        kept.run(STAGE, never)
    assert not MODEL.exists() and not MANIFEST.exists()


def test_a_damaged_object_is_put_there_again(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTGATE_STORE", str(tmp_path / "store"))
    kept.run(STAGE, work)
    for file in (tmp_path / "store" / "objects").rglob("*"):
        if file.is_file():
            damage_object(file)
    monkeypatch.setenv("QUANTGATE_FORCED", "1")
    kept.run(STAGE, work)
    monkeypatch.delenv("QUANTGATE_FORCED")
    clear()
    kept.run(STAGE, never)


def test_an_object_that_is_gone(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTGATE_STORE", str(tmp_path / "store"))
    kept.run(STAGE, work)
    shutil.rmtree(tmp_path / "store" / "objects")
    clear()
    with pytest.raises(RegistryError, match="is missing, the content of"):
        kept.run(STAGE, never)


def again_sealed(result: dict[str, object]) -> str:
    unsealed = Result.model_validate(result)
    return unsealed.model_copy(update={"sha256": results.seal(unsealed)}).dumps()


def moved(result: dict[str, object], path: str) -> dict[str, object]:
    """The record, with its manifest under another name."""
    out = next(out for out in result["outs"] if out["path"] == str(MANIFEST))  # type: ignore
    out["files"][0]["path"] = path
    return result


def with_out(result: dict[str, object], path: str) -> dict[str, object]:
    moved(result, path)
    out = next(out for out in result["outs"] if out["path"] == str(MANIFEST))  # type: ignore
    out["path"] = path
    return result


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: json.dumps(r | {"wall_s": 1e9}), "changed since it was written"),
        (lambda r: json.dumps(r | {"more": 1}), "no record of a result"),
        (lambda r: "{", "no record of a result"),
        (lambda r: again_sealed(r | {"key": "0" * 64}), "another result's record"),
        (lambda r: again_sealed(r | {"stage": "quantize@tiny--y"}), "not a result of quantize@"),
        (lambda r: again_sealed(moved(r, "../../outside.json")), "no file of artifacts/manifests"),
        (lambda r: again_sealed(moved(r, "/tmp/outside.json")), "no file of artifacts/manifests"),
        (lambda r: again_sealed(with_out(r, "pipeline/cli.py")), "not a result of quantize@"),
        (lambda r: again_sealed(r | {"outs": r["outs"][:1]}), "not a result of quantize@"),
    ],
)
def test_an_edited_record_is_refused(
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, object]], str],
    reason: str,
) -> None:
    monkeypatch.setenv("QUANTGATE_STORE", str(tmp_path / "store"))
    kept.run(STAGE, work)
    (record,) = (tmp_path / "store" / "results").iterdir()
    record.write_text(change(json.loads(record.read_text())))
    clear()
    with pytest.raises(Tampered, match=reason):
        kept.run(STAGE, never)
    assert not Path("artifacts/models").exists()


def test_what_failed_is_not_stored(store: Store) -> None:
    def fail() -> None:
        work()
        raise ArtifactError("no")

    with pytest.raises(ArtifactError, match="no"):
        kept.run(STAGE, fail)
    clear()
    kept.run(STAGE, work)
    assert MANIFEST.is_file()


def test_what_was_edited_meanwhile_is_not_stored(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit() -> None:
        work()
        Path("source.txt").write_text("another")

    kept.run(STAGE, edit)
    assert "not put into the store: source.txt was written to" in capsys.readouterr().err
    Path("source.txt").write_text("source")
    clear()
    kept.run(STAGE, work)


def test_a_full_store_does_not_undo_the_work(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Store, result: Result) -> None:
        raise RegistryError("s3://bucket: the disk is full.")

    monkeypatch.setattr(Store, "put", full)
    kept.run(STAGE, work)
    assert MANIFEST.is_file()
    assert "not put into the store: s3://bucket: the disk is full." in capsys.readouterr().err


def test_a_store_that_cannot_be_opened_stops_before_the_work(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTGATE_STORE", "nosuch://bucket/prefix")
    with pytest.raises(RegistryError, match="nosuch"):
        kept.run(STAGE, never)


def test_forced_work_is_done_and_replaces_what_is_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def otherwise() -> None:
        work()
        MANIFEST.write_text("[1]")

    kept.run(STAGE, work)
    monkeypatch.setenv("QUANTGATE_FORCED", "1")
    kept.run(STAGE, otherwise)
    monkeypatch.delenv("QUANTGATE_FORCED")
    clear()
    kept.run(STAGE, never)
    assert MANIFEST.read_text() == "[1]"


def timings() -> None:
    Path("artifacts/timings/tiny").mkdir(parents=True)


def test_an_empty_folder_is_a_result(store: Store) -> None:
    kept.run("benchmark@tiny", timings)
    clear()
    kept.run("benchmark@tiny", never)
    assert Path("artifacts/timings/tiny").is_dir()


def test_a_benchmark_of_another_machine_is_not_this_one_s(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = kept.this()
    with monkeypatch.context() as patch:
        patch.setattr(kept, "this", lambda: here.model_copy(update={"name": "fast"}))
        kept.run("benchmark@tiny", timings)
        clear()
        kept.run("benchmark@tiny", never)
    clear()
    with pytest.raises(AssertionError, match="the stage was run"):
        kept.run("benchmark@tiny", never)
    assert "it holds for that machine alone" in capsys.readouterr().out
    monkeypatch.setenv("QUANTGATE_ANY_MACHINE", "1")
    kept.run("benchmark@tiny", never)
    assert "made on fast (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "bound"),
    [({}, False), ({"failure": "died"}, True), ({"lacking": "no AVX-512"}, True)],
)
def test_what_a_machine_could_not_measure_is_bound_to_it(
    small: Path, found: dict[str, str], bound: bool
) -> None:
    make.evaluation({}, [], "x").model_copy(update=found).write(paths.evaluation("tiny", "x"))
    stage = graph.Stage("evaluate@tiny--x", "", {}, (), ())
    assert kept._machine_bound(stage) is bound


def test_two_writers_leave_whole_files(small: Path, tmp_path: Path) -> None:
    work()
    (file,) = inputs.hashed([MODEL / "w.bin"])
    stores = [Store(str(tmp_path / "store")) for _ in range(2)]
    for store in stores:
        store.objects.keep(file, MODEL / "w.bin")
    (kept_file,) = (path for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert artifact.hash_file(kept_file, file.path) == file


def test_the_graph_is_dvc_s(root: Path) -> None:
    """Every stage of a recipe, and what it says is what dvc.yaml does."""
    with graph.opened() as project:
        stages = {stage.name: stage for stage in project.stages("tiny")}
        one = project.stage("evaluate@tiny--ov-int8")
        assert stages["evaluate@tiny--ov-int8"] == one
    assert one.command == "quantgate evaluate tiny ov-int8"
    assert "artifacts/models/tiny/ov-int8" in one.deps
    assert [made.path for made in one.outs] == ["artifacts/evaluations/tiny/ov-int8.json"]
    assert set(one.params["recipes/tiny.yaml"]) == {"evaluate", "serve"}


def test_every_heavy_stage_looks_into_the_store() -> None:
    commands = {
        command.name
        for section in cli.SECTIONS.values()
        for command in section
        if isinstance(command, Kept)
    }
    assert commands == yaml(ROOT / "dvc.yaml", ArtifactError)["stages"].keys() - set(kept.HERE)


def test_an_option_asks_for_something_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTGATE_STORE", "memory://none")
    asked: list[str] = []
    monkeypatch.setattr(kept, "run", lambda name, work: asked.append(name))
    monkeypatch.setattr("pipeline.stages.gate.run", lambda *given, **more: None)
    for words in (["gate", "tiny", "ov-int8"], ["gate", "tiny", "ov-int8", "--recheck"]):
        assert cli.main(words) == 0
    assert asked == ["gate@tiny--ov-int8"]
