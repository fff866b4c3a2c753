"""`make panel`: the damage panel on tiny and, where the real data is, on books-llama; writes docs/panel.md.

It works in a project of its own under artifacts/, so that the recipes' records stay as they are. A second run takes up
what the first one made. Exit code 1 if a damage passed or a benign item failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REAL, ROOT, make_project
from tests.real import prepare

PROJECT = ROOT / "artifacts" / "panel"
HEAD = """# The damage panel

Made by `make panel`. Damaged and harmless artifacts, made with the real tools, each put through the real load check and
gate under the limits of the precision that it claims. "by" names the checks that failed, or what refused the artifact
before it was measured; for items that passed it gives the mean KL as served beside its limit.

"""


def main() -> int:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    make_project(PROJECT)
    recipes = ["tiny"]
    if REAL.is_dir():
        prepare.main(REAL, PROJECT)
        recipes.append("books-llama")
    subprocess.run(["git", "init", "-q"], cwd=PROJECT, check=True)
    subprocess.run(["quantgate", "index"], cwd=PROJECT, check=True)
    code, tables = 0, []
    for name in recipes:
        subprocess.run(["dvc", "repro", "--keep-going", "--glob", f"gate@{name}--*"], cwd=PROJECT, check=True)
        table = Path(f"artifacts/panel-{name}.md")
        code |= subprocess.run(
            [sys.executable, "-m", "tests.panel.run", name, table], cwd=PROJECT, env=environment, check=False
        ).returncode
        tables.append((PROJECT / table).read_text())
    (ROOT / "docs" / "panel.md").write_text(HEAD + "\n".join(tables))
    return code


if __name__ == "__main__":
    sys.exit(main())
