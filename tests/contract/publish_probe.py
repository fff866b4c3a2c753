"""Publishes in processes of their own, so that they can be killed: URL BUNDLE MODULE...

Imports the modules, which takes longer than publishing does, and then forks for every line "RECIPE VARIANT VERSION" that it
reads: prints the child's process id and, once that is gone, how it ended.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from pipeline.artifact import hash_files
from pipeline.registries import Entry, open_registry


def main(url: str, bundle: str, *modules: str) -> None:
    files = hash_files(Path(bundle))
    for name in modules:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            open_registry(url).publish(Entry(*line.split()), Path(bundle), files, lambda done: None)
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
