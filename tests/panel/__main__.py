"""`make panel [MODEL=NAME]`: the damage panel on tiny and, where the real data is, on books-llama,
or on one recipe of tests/real; writes docs/panel.md, which keeps the tables of models that were not
run.

It works in a project of its own under artifacts/, so that the recipes' records stay as they are. A
second run takes up what the first one made. Exit code 1 if a damage passed or a benign item failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REAL, ROOT, make_project
from tests.real import prepare

PROJECT = ROOT / "artifacts" / "panel"
PAGE = ROOT / "docs" / "panel.md"
BASES = (
    "ov-bf16",
    "ov-int8",
    "ov-int4",
    "vllm-bf16",
    "gptq-int4",
    "awq-int4",
)  # the artifacts that items are made of
HEAD = """# The damage panel

Made by `make panel`. Damaged and harmless artifacts, made with the real tools, each put through the
real load check and gate under the limits of the precision that it claims. "by" names the checks
that failed, or what refused the artifact before it was measured; for items that passed it gives the
mean KL as served beside its limit. "s" is the wall time from load to verdict. "shipped as" is the
public report of a bug that was really released, rebuilt by its mechanism
(tests/panel/shipped_damage.py says how); every such row has an honest twin among the benign ones
(tests/panel/items.py).

"""


def main() -> int:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    make_project(PROJECT)
    recipes = sys.argv[1:] or ["tiny", *(["books-llama"] if REAL.is_dir() else [])]
    for name in recipes:
        if name != "tiny":
            prepare.main(name, REAL, PROJECT)
    subprocess.run(["git", "init", "-q"], cwd=PROJECT, check=True)
    subprocess.run(["quantgate", "index"], cwd=PROJECT, check=True)
    code = 0
    for name in recipes:
        subprocess.run(
            ["dvc", "repro", "--keep-going", *(f"gate@{name}--{base}" for base in BASES)],
            cwd=PROJECT,
            check=True,
        )
        table = Path(f"artifacts/panel-{name}.md")
        code |= subprocess.run(
            [sys.executable, "-m", "tests.panel.run", name, table],
            cwd=PROJECT,
            env=environment,
            check=False,
        ).returncode
        write(name, (PROJECT / table).read_text())
    return code


def write(name: str, table: str) -> None:
    """Puts the table of one model into docs/panel.md in the place of its last one."""
    found = PAGE.read_text().split("\n## ")[1:] if PAGE.is_file() else []
    tables = {part.split("\n", 1)[0]: f"## {part.strip()}\n" for part in found} | {name: table}
    PAGE.write_text(HEAD + "\n".join(tables.values()))


if __name__ == "__main__":
    sys.exit(main())
