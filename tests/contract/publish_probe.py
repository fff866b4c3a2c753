"""Publishes in processes of their own, so that they can be killed: URL MODULE...

Imports the modules, which takes longer than publishing does, and then forks for every line "BUNDLE
RECIPE VARIANT VERSION" that it reads: prints the child's process id and, once that is gone, how it
ended and after how many seconds."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path

from pipeline.records.artifact import hash_files
from pipeline.release.registries import Entry, open_registry


def main(url: str, *modules: str) -> None:
    for name in modules:
        importlib.import_module(name)
    for line in sys.stdin:
        bundle, *parts = line.split()
        files = hash_files(Path(bundle))
        child = os.fork()
        if child == 0:
            open_registry(url).publish(Entry(*parts), Path(bundle), files, lambda done: None)
            os._exit(0)
        print(child, flush=True)
        start = time.monotonic()
        print(os.waitpid(child, 0)[1], time.monotonic() - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
