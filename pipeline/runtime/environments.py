"""Builds the pinned environments and finds them again. Standard library only: it also makes the
control environment.

One environment is one file environments/<name>.txt: every package pinned, `# stub` after a pin
whose wheel is replaced by metadata alone (docs/environments.md says why). It lives in the user's
cache folder under the hash of that file, so clones share it; QUANTGATE_ENVIRONMENTS moves the
folder. `python -m pipeline.runtime.environments NAME...` builds."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from pipeline.errors import DiskFull, QuantgateError, SetupError
from pipeline.runtime import installer

PINS = Path(__file__).resolve().parents[2] / "environments"
DVC_COMMAND = Path(__file__).with_name("dvc_command.py")
NAMES = ("control", "openvino", "vllm", "gptq", "compressed")
# What keeps the tools from reporting their use. DVC has it in .dvc/config, since it is started
# before us.
UNTRACKED = {
    "DO_NOT_TRACK": "1",
    "DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "WANDB_MODE": "disabled",
}
CPU_TORCH = (
    "\nNo CPU build of torch was found: point PIP_EXTRA_INDEX_URL at PyTorch's index of CPU wheels"
    " and run again."
)
LAUNCHER = """#!{python}
import os, pathlib, sys
sys.dont_write_bytecode = False  # as in pipeline.runtime.process
here = pathlib.Path.cwd()
places = (here, *here.parents)
root = next((p for p in places if (p / "dvc.yaml").is_file() and (p / "pipeline").is_dir()), None)
if root is None:
    expected = "a quantgate project (a folder with dvc.yaml and pipeline/)"
    print("quantgate: {{}} is not inside {{}}.".format(here, expected), file=sys.stderr)
    sys.exit(2)
os.environ["QUANTGATE_CALLED_FROM"] = "" if here == root else str(here)
os.chdir(root)
sys.path.insert(0, str(root))
from pipeline.cli import main
sys.exit(main())
"""


def device() -> str:
    """What vLLM runs on here: 'cpu', or 'cuda' as QUANTGATE_DEVICE says. Raises SetupError for
    anything else."""
    chosen = os.environ.get("QUANTGATE_DEVICE", "cpu")
    if chosen not in ("cpu", "cuda"):
        raise SetupError(
            f"QUANTGATE_DEVICE: found {chosen!r}, expected 'cpu' or 'cuda'. Unset it for a CPU"
            " host."
        )
    return chosen


def pins_file(name: str) -> Path:
    """The pinned set of an environment; on a CUDA host vLLM has a set of its own."""
    stem = f"{name}-cuda" if name == "vllm" and device() == "cuda" else name
    path = PINS / f"{stem}.txt"
    if not path.is_file():
        raise SetupError(
            f"environment {name!r}: no {path.name} in {PINS}. Known: {', '.join(NAMES)}."
        )
    return path


def pins_files(name: str) -> list[Path]:
    """Where in a project an environment's pinned set may stand: for vLLM in either of two files."""
    return [Path(PINS.name) / f"{stem}.txt" for stem in (name, f"{name}-cuda")]


def root() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(
        os.environ.get("QUANTGATE_ENVIRONMENTS") or Path(cache) / "quantgate" / "environments"
    ).absolute()


def location(name: str) -> Path:
    """Where the environment lies or will lie: its name and the hash of its pins, the Python version
    and our own commands in it."""
    pins = pins_file(name)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    commands = "".join(_commands(Path()).values()) if name == "control" else ""
    digest = hashlib.sha256(pins.read_bytes() + f"{version}{commands}".encode()).hexdigest()[:16]
    return root() / f"{pins.stem}-{digest}"


def is_complete(name: str) -> bool:
    return (location(name) / installer.COMPLETE).is_file()


def python(name: str) -> Path:
    """The environment's interpreter. Raises SetupError if it was not built."""
    if not is_complete(name):
        raise SetupError(
            f"environment {name!r} is not installed here. Run: make setup (or quantgate setup"
            f" {name})"
        )
    return location(name) / "bin" / "python"


def ensure(name: str) -> Path:
    """Builds the environment unless it is there; safe to kill, safe to run twice at once. Raises
    SetupError."""
    target = location(name)
    if is_complete(name):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with installer.locked(target.with_suffix(".lock")):
        if not is_complete(name):
            shutil.rmtree(target, ignore_errors=True)
            _build(name, target)
    return target


def _build(name: str, target: Path) -> None:
    start = time.monotonic()
    print(f"environment {name}: installing {pins_file(name).name} into {target}", flush=True)
    log = target.with_suffix(".log")
    with log.open("w") as output:
        _make(name, target, output)
    if name == "control":
        for command, text in _commands(target / "bin" / "python").items():
            launcher = target / "bin" / command
            launcher.write_text(text)
            launcher.chmod(0o755)
    (target / installer.COMPLETE).write_text(f"{time.time():.0f}\n")
    print(f"environment {name}: ready in {time.monotonic() - start:.0f} s", flush=True)


def _make(name: str, target: Path, output: TextIO) -> None:
    """Stubs first, then every pin without dependency resolution (the set is complete), then the
    check that nothing is missing. Raises SetupError, and DiskFull for a step that had no room."""
    try:
        uv = installer.ready(root())
    except subprocess.CalledProcessError as error:
        raise SetupError(
            f"{installer.UV}: cannot be installed by pip:\n{_last_lines(error.stderr)}"
        ) from error
    python = target / "bin" / "python"
    steps = [[sys.executable, "-m", "venv", str(target)]]
    stubs, pins = _sets(pins_file(name), target)
    if stubs:
        steps.append(uv.install(python, *map(str, stubs)))
    # by pip: uv's holds vLLM for another platform's, by a tag that its wheel gives itself
    check = [str(python), "-m", "pip", "--disable-pip-version-check", "check"]
    steps += [uv.install(python, "-r", str(pins)), check]
    for step in steps:
        done = subprocess.run(
            step, stdout=output, stderr=subprocess.STDOUT, env=uv.variables, check=False
        )
        if done.returncode:
            output.flush()
            tail = _last_lines(Path(output.name).read_text(errors="replace"))
            remedy = CPU_TORCH if "torch==" in tail and "+cpu" in tail else ""
            kind = DiskFull if os.strerror(errno.ENOSPC) in tail else SetupError
            raise kind(
                f"environment {name}: '{' '.join(step[-4:])}' failed; log:"
                f" {output.name}\n{tail}{remedy}"
            )


def _last_lines(text: str) -> str:
    return "\n".join(line[:300] for line in text.splitlines()[-5:])


def _commands(python: Path) -> dict[str, str]:
    """The scripts of the control environment that no package brings, or not as they are needed."""
    return {
        "quantgate": LAUNCHER.format(python=python),
        "dvc": f"#!{python}\n{DVC_COMMAND.read_text()}",
    }


def _sets(pins: Path, target: Path) -> tuple[list[Path], Path]:
    """Wheels for the pins marked as stubs, and a file of the others."""
    lines = [line.strip() for line in pins.read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    folder, real = target / "stubs", target / "requirements.txt"
    folder.mkdir(parents=True, exist_ok=True)
    real.write_text("".join(f"{line}\n" for line in lines if not line.endswith("# stub")))
    stubs = [line.split("#")[0].strip() for line in lines if line.endswith("# stub")]
    return [_stub_wheel(stub, folder) for stub in stubs], real


def _stub_wheel(pin: str, folder: Path) -> Path:
    """A wheel that is only metadata (PyPA binary distribution format): satisfies `pip check`,
    imports as nothing."""
    name, version = pin.split("==")
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: quantgate\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = "".join(
        f"{path},sha256={_record_hash(text)},{len(text)}\n" for path, text in files.items()
    )
    wheel = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return wheel


def _record_hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def _link_control() -> None:
    """Makes .venv in the working folder lead to the control environment, so that it activates as
    people expect."""
    link = Path(".venv")
    if link.is_symlink() and link.readlink() == location("control"):
        return
    if link.exists() and not link.is_symlink():
        raise SetupError(
            f"{link.absolute()}: a folder stands where the link to the environment goes. Remove it."
        )
    link.unlink(missing_ok=True)
    link.symlink_to(location("control"))


def build(names: Sequence[str]) -> None:
    """Builds the named environments (all by default), two at a time, and links .venv to the control
    one. Raises SetupError."""
    from concurrent.futures import ThreadPoolExecutor

    names = names or NAMES
    if sys.version_info[:2] != (3, 11):
        raise SetupError(
            f"Python: found {sys.version.split()[0]}, expected 3.11, which the pins are for. Use"
            " make PYTHON=..."
        )
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(ensure, names))
    if "control" in names:
        _link_control()


def main(names: list[str]) -> int:
    try:
        build(names)
    except QuantgateError as error:
        print(f"quantgate: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
