from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import SetupError
from pipeline.runtime import environments, installer


def test_location_is_keyed_by_the_pins_and_movable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "openvino.txt").write_text("a==1\n")
    monkeypatch.setattr(environments, "PINS", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.delenv("QUANTGATE_ENVIRONMENTS", raising=False)
    first = environments.location("openvino")
    assert first.parent == Path("/cache/quantgate/environments")
    (tmp_path / "openvino.txt").write_text("a==2\n")
    assert environments.location("openvino") != first
    monkeypatch.setenv("QUANTGATE_ENVIRONMENTS", "/elsewhere")
    assert environments.location("openvino").parent == Path("/elsewhere")


def test_every_pin_is_exact() -> None:
    for path in environments.PINS.glob("*.txt"):
        lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
        assert [line for line in filter(None, lines) if "==" not in line or "*" in line] == [], path


def test_stub_wheel_satisfies_pip_and_imports_as_nothing(tmp_path: Path) -> None:
    wheel = environments._stub_wheel("no-such-tool==1.2+stub", tmp_path)
    target = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(command, check=True)
    script = "import importlib.metadata as m; print(m.version('no-such-tool')); import no_such_tool"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "1.2+stub"
    assert "ModuleNotFoundError" in done.stderr


def test_a_missing_environment_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUANTGATE_ENVIRONMENTS", str(tmp_path))
    with pytest.raises(SetupError, match="quantgate setup vllm"):
        environments.python("vllm")


def test_a_failed_build_is_an_error_and_not_taken_for_complete(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uv = installer.UV.replace("==", "-")
    shutil.copytree(environments.root() / uv, tmp_path / "cache" / uv, symlinks=True)
    (tmp_path / "gptq.txt").write_text("no-such-package-at-all==0\n")
    monkeypatch.setattr(environments, "PINS", tmp_path)
    monkeypatch.setenv("QUANTGATE_ENVIRONMENTS", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SetupError, match="no-such-package-at-all"):
        environments.ensure("gptq")
    assert not environments.is_complete("gptq")


def test_uv_that_was_half_installed_is_installed_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / installer.UV.replace("==", "-")
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "uv").write_text("half of it")
    asked: list[list[str]] = []

    def called(command: list[str]) -> str:
        asked.append(command)
        home.mkdir(exist_ok=True)
        return ""

    monkeypatch.setattr(installer, "_call", called)
    installer.ready(tmp_path)
    assert not (home / "bin" / "uv").exists()  # removed, and what `called` stands for makes it
    assert [command[1:3] for command in asked] == [["-m", "venv"], ["-m", "pip"], ["-m", "pip"]]
    installer.ready(tmp_path)
    assert asked[3:] == [asked[2]]  # pip's settings alone


def test_without_uv_and_an_index_the_error_is_pips(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUANTGATE_ENVIRONMENTS", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(SetupError, match=rf"{installer.UV}: cannot be installed by pip:[\s\S]*uv"):
        environments.ensure("gptq")


def test_where_packages_come_from_is_what_pip_was_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a file of pip's, by its variables, which go before it, and as pip itself prints both."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://a:key@one/simple\ntimeout = 60\n"
        "extra-index-url = https://two/simple\n    https://three/simple\n"
        "[install]\nfind-links = /wheels /more\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("PIP_TIMEOUT", "90")
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = installer.variables(installer.pip_settings(listed))
    assert (
        found.items()
        >= {
            "UV_DEFAULT_INDEX": "https://a:key@one/simple",
            "UV_INDEX": "https://two/simple https://three/simple",
            "UV_FIND_LINKS": "/wheels,/more",
            "UV_HTTP_TIMEOUT": "90",
        }.items()
    )
    uv = installer.Installer(Path("uv"), found)
    assert "key" not in " ".join(uv.install(Path("python"), "a==1"))  # others could read it


def test_device_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTGATE_DEVICE", "cuda")
    assert environments.pins_file("vllm").name == "vllm-cuda.txt"
    assert environments.pins_file("gptq").name == "gptq.txt"
    monkeypatch.setenv("QUANTGATE_DEVICE", "tpu")
    with pytest.raises(SetupError, match="QUANTGATE_DEVICE: found 'tpu'"):
        environments.pins_file("vllm")
