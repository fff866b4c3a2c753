"""The `dvc` command of the control environment: DVC itself, but what it keeps for itself is
replaced whole.

DVC empties dvc.lock and .dvc/tmp/rwlock and writes them again in place. Killed or interrupted
meanwhile, it leaves half of one, and every later `dvc repro` refuses to begin.

The stages find the `quantgate` beside it, also where the environment was not activated. They are
told of --force, since what is asked for then is the work, and not its result out of a store.

The set-up copies this file into the environment's bin folder, so it needs nothing of quantgate.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from dvc.cli import main
from dvc_objects.fs.local import FsspecLocalFileSystem

REPLACED = ("dvc.lock", "rwlock")
FORCE = re.compile(r"-[a-zA-Z]*f[a-zA-Z]*|--force.*")
in_place = FsspecLocalFileSystem.open


def opened(
    self: FsspecLocalFileSystem,
    path: str,
    mode: str = "r",
    encoding: str | None = None,
    **options: Any,
) -> Any:
    """Stands for FsspecLocalFileSystem.open."""
    if mode.startswith("w") and Path(path).name in REPLACED:
        return _replacing(path, mode, encoding)
    return in_place(self, path, mode, encoding, **options)  # type: ignore[no-untyped-call]


@contextmanager
def _replacing(path: str, mode: str, encoding: str | None) -> Iterator[IO[Any]]:
    partial = Path(f"{path}.partial")
    with partial.open(mode, encoding=encoding) as file:
        yield file
    partial.replace(path)


if __name__ == "__main__":
    # As in pipeline.runtime.process; DVC imports most of itself later.
    sys.dont_write_bytecode = False
    os.environ["PATH"] = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    )
    if any(FORCE.fullmatch(word) for word in sys.argv[1:]):
        os.environ["QUANTGATE_FORCED"] = "1"
    FsspecLocalFileSystem.open = opened  # type: ignore[method-assign]
    sys.exit(main())
