"""`python -m tests.panel.damage JOB.json`: makes what a list of jobs names, in an environment with
torch and openvino.

A job: {"kind": "checkpoint", "name", "source", "out"} writes a damaged or harmless copy of the
source to `out`; {"kind": "artifact", "name", "source", "artifact", "out"} copies the artifact to
`out` and damages the copy; without `out` the artifact itself is damaged."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from tests.panel.artifact_damage import ARTIFACT
from tests.panel.checkpoint_damage import BENIGN, CHECKPOINT
from tests.panel.shipped_damage import SHIPPED


def run(job: dict[str, str]) -> Path:
    """The folder that holds the result. Raises KeyError for a name or kind that there is not."""
    source = Path(job["source"])
    if job["kind"] == "checkpoint":
        out = Path(job["out"])
        (CHECKPOINT | BENIGN)[job["name"]](source, out)
        return out
    if job["kind"] != "artifact":
        raise KeyError(job["kind"])
    damage, artifact = (ARTIFACT | SHIPPED)[job["name"]], Path(job["artifact"])
    out = Path(job.get("out", artifact))
    if out != artifact:
        shutil.copytree(artifact, out, copy_function=shutil.copyfile)
    damage(out, source)
    return out


def main() -> None:
    for job in json.loads(Path(sys.argv[1]).read_text()):
        print(f"{job['kind']} {job['name']}: {run(job)}", flush=True)


if __name__ == "__main__":
    main()
