"""A host that only serves: quantgate as pip installs it, a policy, and neither a clone nor git."""

from __future__ import annotations

import datetime
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.errors import Rejected, SetupError
from pipeline.records import artifact
from pipeline.release import catalogue
from pipeline.release.signoff import commands
from pipeline.runtime import environments
from tests import release
from tests.conftest import ROOT
from tests.release import BOB, PASS, RECIPE, VARIANT, key

pytestmark = pytest.mark.usefixtures("quick_gate")
Quantgate = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of modules that the wheel has."""
    folder = tmp_path_factory.mktemp("build")
    for name in ("pipeline", "environments", "pyproject.toml", "README.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, folder / name)
    build = [
        sys.executable,
        "-c",
        "from setuptools import setup; setup()",
        "-q",
        "build_py",
        "--build-lib",
        "site",
    ]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    return folder / "site"


@pytest.fixture
def quantgate(installed: Path, bundle: Path, tmp_path: Path) -> Quantgate:
    """The command, in an empty folder that holds the policy beside it and has no git."""
    host = tmp_path / "host"
    host.mkdir()
    shutil.copyfile("signoff/policy.yaml", host / "policy.yaml")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-c",
            "import sys; from pipeline.cli import main; sys.exit(main())",
            *words,
        ]
        surroundings = {**os.environ, "PYTHONPATH": str(installed), "PATH": str(host)}
        return subprocess.run(
            command, cwd=host, env=surroundings, capture_output=True, text=True, check=False
        )

    return run


def test_a_host_without_a_clone_lists_fetches_verifies_and_serves(
    quantgate: Quantgate, bundle: Path, tmp_path: Path
) -> None:
    rules = ("--policy", "policy.yaml")
    registry = str(bundle.resolve().parents[2])
    listed = quantgate("list", registry, *rules)
    assert listed.stdout.startswith(f"{registry}/{RECIPE}/{VARIANT}/1  20"), listed.stderr
    assert "PASS; approved by ada@example.org (reviewer) until" in listed.stdout
    fetched = quantgate("fetch", f"{registry}/{RECIPE}/{VARIANT}", "--to", "model", *rules)
    assert fetched.returncode == 0, fetched.stderr
    assert "no version named, taking the latest: 1" in fetched.stderr
    assert artifact.hash_files(tmp_path / "host" / "model") == artifact.hash_files(bundle)
    assert quantgate("verify", "model", *rules, "--recheck").returncode == 0
    assert quantgate("verify", f"file://{registry}/{RECIPE}/{VARIANT}/1", *rules).returncode == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        served = quantgate("serve", "model", "--port", port, *rules)
    # refused once all was read and believed
    assert f"127.0.0.1:{port}: cannot be listened on" in served.stderr, served.stderr
    assert served.returncode == SetupError.exit_code
    assert sorted(path.name for path in (tmp_path / "host").iterdir()) == ["model", "policy.yaml"]


def test_a_host_without_a_policy_is_told_to_name_one(quantgate: Quantgate, bundle: Path) -> None:
    said = quantgate("verify", str(bundle.resolve()))
    assert said.returncode == 2
    assert "Name one with --policy FILE" in said.stderr


def test_an_installed_quantgate_finds_the_environments_that_a_clone_made(
    installed: Path, tmp_path: Path
) -> None:
    question = "from pipeline.runtime import environments; print(environments.location('vllm'))"
    done = subprocess.run(
        [sys.executable, "-c", question],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(environments.location("vllm"))


def test_the_list_says_version_date_verdict_and_approval(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the latest, which is fetched where no version is named, is the last approved, then that
    of the highest number."""
    release.published(version="1.10")
    for version, name in (("1.9", None), ("2", "signoff.jsonl"), ("3", "bundle.dsse.json")):
        shutil.copytree(bundle, bundle.with_name(version))
        if name:
            (bundle.with_name(version) / "quantgate" / name).unlink()
            (bundle.with_name(version) / "quantgate" / name).write_text("{}")
    (bundle / "quantgate" / "signoff.jsonl").unlink()
    (bundle / "quantgate" / "signoff.jsonl").write_text("")
    capsys.readouterr()
    assert cli.main(["list", "../registry"]) == 0
    lines = {
        line.split()[0].rsplit("/", 1)[1]: line for line in capsys.readouterr().out.splitlines()
    }
    assert set(lines) == {"1", "1.9", "1.10", "2", "3"}
    assert "not what ci signed" in lines["1"]
    assert all("another bundle, tiny/ov-int8/1" in lines[version] for version in ("1.9", "2"))
    assert "not a DSSE envelope" in lines["3"]
    assert (
        f"  {datetime.datetime.now(datetime.UTC):%Y-%m-%d}  PASS; approved by ada@example.org"
        in lines["1.10"]
    )
    assert cli.main(["fetch", f"../registry/{RECIPE}/{VARIANT}", "--to", "../got"]) == 0
    assert "taking the latest: 1.10" in capsys.readouterr().err
    assert cli.main(["fetch", f"../registry/{RECIPE}/{VARIANT}/4", "--to", "../more"]) == 2
    commands.reject(*PASS, key(BOB), "unsafe")
    assert cli.main(["list", "../registry"]) == 0
    assert "PASS; not signed off: rejected by bob@example.org: unsafe" in capsys.readouterr().out
    assert (
        cli.main(["fetch", f"../registry/{RECIPE}/{VARIANT}", "--to", "../again"])
        == Rejected.exit_code
    )


def test_version_10_comes_behind_version_9() -> None:
    assert sorted(["1.10", "1.9", "a", "1.9.1", "2-rc1"], key=catalogue._number) == [
        "a",
        "1.9",
        "1.9.1",
        "1.10",
        "2-rc1",
    ]
