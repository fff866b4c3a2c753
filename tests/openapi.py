"""Holds a server that runs to the OpenAPI that it shows, by schemathesis: what the schema allows
and what it does not is asked for."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime import environments


def hold_to(schema: dict[str, Any], port: int, folder: Path, *not_said: str) -> None:
    """`not_said`: schemathesis' checks of what this schema does not say."""
    if not environments.is_complete("servers"):
        pytest.skip("environment servers is not installed (make servers)")
    file = folder / "openapi.json"
    file.write_text(json.dumps(schema))
    words = [str(environments.python("servers")), "-m", "schemathesis.cli", "run", str(file)]
    words += ["--url", f"http://127.0.0.1:{port}", "--max-examples", "20", "--no-color"]
    words += ["--generation-database=none", "--seed=1"]
    words += [f"--exclude-checks={check}" for check in not_said]
    asked = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stdout
