"""Every line of the quantizers' table through the whole pipeline on the tiny recipe (make
test-all)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import paths
from pipeline.records import Benchmark, Evaluation, Verdict, read
from tests import every_line
from tests.conftest import command
from tests.processor import needs_int4_on_vllm

pytestmark = [pytest.mark.engine, pytest.mark.thorough, needs_int4_on_vllm]


def test_every_line_is_made_judged_and_timed(project: Path) -> None:
    every_line.main("tiny", project)
    assert command("quantgate", "index").returncode == 0
    done = command("dvc", "repro", "require@every-tiny", timeout_s=14400)
    print(done.stdout[-6000:])
    assert done.returncode == 0, done.stderr[-3000:]
    for name in every_line.variants():
        evaluation = read(paths.evaluation("every-tiny", name), Evaluation)
        assert (evaluation.failure, set(evaluation.views)) == (None, {"deployed", "weights"})
        assert read(paths.verdict("every-tiny", name), Verdict).status == "PASS"
        assert read(paths.benchmark("every-tiny", name), Benchmark).measured
