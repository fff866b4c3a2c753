"""An engine on the terminal, as `serve` starts it: an answer to each line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.engines import Step
from pipeline.engines.fake import FakeEngine
from pipeline.recipe import Serve
from pipeline.release import prompting

SERVE = Serve(max_model_len=64, max_num_seqs=1, max_num_batched_tokens=64, kv_cache_gib=1)


class InParts(FakeEngine):
    """Takes a long prompt in parts: its first steps return nothing."""

    parts = 3

    def step(self) -> list[Step]:
        self.parts -= 1
        return [] if self.parts >= 0 else super().step()


class Full(FakeEngine):
    def step(self) -> list[Step]:
        return [Step(0, [], True, "no room")]


def test_a_prompt_that_is_taken_in_parts_is_answered(tmp_path: Path) -> None:
    with FakeEngine(tmp_path, SERVE) as engine, InParts(tmp_path, SERVE) as slow:
        expected = prompting._continued(engine, [5, 6, 7], 8)
        assert expected and prompting._continued(slow, [5, 6, 7], 8) == expected


def test_what_an_engine_refuses_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Full(tmp_path, SERVE) as engine:
        assert prompting._continued(engine, [5, 6, 7], 8) == []
    assert "no room" in capsys.readouterr().err
