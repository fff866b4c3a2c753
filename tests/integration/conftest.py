"""What the integration tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def run(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tiny_run)
    return tiny_run
