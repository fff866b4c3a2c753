"""The store: what a stage made is found by all that it depends on, and believed by its hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from pipeline import cli, paths
from pipeline.cli_parameters import Kept
from pipeline.errors import ArtifactError, RegistryError, Tampered
from pipeline.reading import yaml
from pipeline.records import Out, Result
from pipeline.store import graph, inputs, kept, results
from pipeline.store.results import Store
from tests import evaluations as make
from tests.conftest import ROOT
from tests.registry_servers import BUCKET, Served, free_port, use

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


SECRET = "hidden-word"


@pytest.fixture
def s3(servers: Callable[[str], Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix of a bucket of moto's, which takes any key."""
    use(servers("s3"), monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return str(request.getfixturevalue("s3"))
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


def stored(store: Store, folder: str) -> dict[str, bytes]:
    """What lies below a folder of the store, by its path there."""
    remote = store.objects._remote
    return {
        path: remote.store.cat_file(path)
        for path in remote.store.find(f"{remote.root}/{folder}")
        if remote.has(path)
    }


def change(store: Store, folder: str, how: Callable[[bytes], bytes]) -> None:
    for path, content in stored(store, folder).items():
        store.objects._remote.store.pipe_file(path, how(content))


def damaged(content: bytes) -> bytes:
    return b"W" + content[1:]


def longer(content: bytes) -> bytes:
    return content + b"more"


@pytest.mark.parametrize("how", [damaged, longer])
def test_a_damaged_object_is_refused(store: Store, how: Callable[[bytes], bytes]) -> None:
    kept.run(STAGE, work)
    digest = hashlib.sha256(FILES[MODEL / "w.bin"]).hexdigest()
    change(store, f"objects/{digest[:2]}", how)
    clear()
    with pytest.raises(Tampered, match=rf"{MODEL}/w\.bin.*Remove it there.*QUANTGATE_STORE="):
        kept.run(STAGE, never)
    assert not MODEL.exists() and not MANIFEST.exists()


def test_a_damaged_object_is_put_there_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.run(STAGE, work)
    change(store, "objects", damaged)
    monkeypatch.setenv("QUANTGATE_FORCED", "1")
    kept.run(STAGE, work)
    monkeypatch.delenv("QUANTGATE_FORCED")
    clear()
    kept.run(STAGE, never)


def test_an_object_that_is_gone(store: Store) -> None:
    kept.run(STAGE, work)
    for path in stored(store, "objects"):
        store.objects._remote.store.rm_file(path)
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


def test_two_writers_leave_whole_files(url: str, small: Path) -> None:
    """At the same time, and of a size that S3 takes in parts."""
    large = Path("large.bin")
    large.write_bytes(os.urandom(17 << 20))
    files = inputs.hashed([large])
    key = files[0].sha256
    out = Out(path=str(large), is_folder=False, files=files)
    result = Result(
        stage=STAGE,
        key=key,
        machine=kept.this(),
        machine_bound=False,
        wall_s=1,
        cost=None,
        outs=[out],
    )

    def put(wall_s: float) -> None:
        Store(url).put(result.model_copy(update={"wall_s": wall_s}))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(put, (1.0, 2.0)))
    found = Store(url).find(key)
    assert found is not None and found.wall_s in (1.0, 2.0)
    Store(url).objects.fetch(files[0], Path("fetched.bin"))
    assert large.read_bytes() == Path("fetched.bin").read_bytes()
    assert len(stored(Store(url), "")) == 2


def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")


def denied(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key is known any more."""
    _check_keys("0")


def _check_keys(after: str) -> None:
    """From so many requests on, which moto lets through first."""
    url = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    requests.post(url, data=after, timeout=9).raise_for_status()


def no_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTGATE_STORE", "s3://no-such-bucket/store")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (nobody, "Could not connect"),
        (denied, "Forbidden"),
        (no_bucket, "bucket does not exist"),
    ],
)
def test_a_bucket_that_cannot_be_asked_stops_before_the_work(
    s3: str,
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: Callable[[pytest.MonkeyPatch], None],
    said: str,
) -> None:
    """And no error shows a secret, nor does its traceback."""
    monkeypatch.setenv("QUANTGATE_STORE", s3)
    wrong(monkeypatch)
    try:
        with pytest.raises(RegistryError, match=rf"^s3://.*: reading results/.*{said}") as told:
            kept.run(STAGE, never)
    finally:
        if wrong is denied:
            _check_keys("inf")
    assert SECRET not in "".join(traceback.format_exception(told.value))


def test_no_secret_is_stored_or_said(
    s3: str, small: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUANTGATE_STORE", s3)
    kept.run(STAGE, work)
    clear()
    kept.run(STAGE, never)
    shown = "".join(capfd.readouterr())
    contents = stored(Store(s3), "").values()
    assert len(contents) == 1 + len(FILES)
    assert not any(SECRET.encode() in content for content in [*contents, shown.encode()])


@pytest.mark.parametrize(
    "url", [f"s3://key:{SECRET}@bucket/store", f"s3://bucket/store?token={SECRET}"]
)
def test_a_key_in_the_url_of_a_bucket_is_refused(url: str) -> None:
    """S3 would take it for a part of a name."""
    with pytest.raises(
        RegistryError, match=r"^s3://bucket/store: expected .*AWS_ACCESS_KEY_ID"
    ) as told:
        Store(url)
    assert SECRET not in "".join(traceback.format_exception(told.value))


def test_a_password_is_no_part_of_what_is_refused() -> None:
    """fsspec's path of an HTTP URL has its user."""
    objects = Store(f"http://user:{SECRET}@127.0.0.1:1/store").objects
    assert objects.holds_secret and SECRET in objects.path("x")
    assert str(objects.refused("x", "odd")).startswith("http://127.0.0.1:1/store/x: odd. Remove")


def test_a_missing_package_is_named_with_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(RegistryError, match=r"^gs://bucket/store: .*gcsfs.* -m pip install "):
        Store("gs://bucket/store")


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
