"""The benchmark of the tiny recipe, what is compared, and what follows from a limit on speed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.benchmark.speed_statistics import levels
from pipeline.recipe import load
from pipeline.records import Benchmark, Timings, Trace, read
from tests.conftest import command
from tests.processor import NO_BF16_ON_OPENVINO, NOT_MEASURED, needs_int4_on_vllm

pytestmark = pytest.mark.engine
VLLM = [name for name in ("vllm-bf16", "gptq-int4", "awq-int4") if name not in NOT_MEASURED]
VARIANTS = ("ov-bf16", "ov-int8", "ov-int4", *VLLM)


def test_benchmarks_hold_every_load_and_every_request(run: Path) -> None:
    trace, asked = read(paths.trace("tiny"), Trace), load("tiny").benchmark.output_tokens
    for name in VARIANTS:
        record, raw = (
            read(paths.benchmark("tiny", name), Benchmark),
            read(paths.timings("tiny", name), Timings),
        )
        own = name in VLLM or NO_BF16_ON_OPENVINO
        assert set(record.profiles) == ({"deployed"} if own else {"deployed", "matched"})
        said = [notice for notice in record.notices if "not timed at matched precision" in notice]
        assert bool(said) == bool(name not in VLLM and NO_BF16_ON_OPENVINO)
        deployed = record.profiles["deployed"]
        loads = [(level.loop, level.concurrency, level.fraction) for level in deployed.levels]
        assert loads == [("closed", n, None) for n in (1, 4, 8)] + [
            ("open", None, part) for part in (0.5, 0.8)
        ]
        for level in deployed.levels:
            assert (level.requests, level.failed) == (
                load("tiny").benchmark.repeats * len(trace.requests),
                0,
            ), level.errors
            assert level.ttft_ms and level.tpot_ms
            assert min(level.ttft_ms.estimate.median, level.tpot_ms.estimate.median) > 0
            assert list(level.ttft_ms.percentiles) == [
                "p50",
                "p90",
            ]  # 48 requests do not support the 95th
        assert record.trace_sha256 == trace.sha256
        assert {
            request.wanted for replay in raw.replays["deployed"] for request in replay.requests
        } == {asked}
        assert levels(raw.replays["deployed"], load("tiny").benchmark.slo) == deployed.levels
        assert deployed.peak_memory_bytes > record.size_bytes
        assert len(record.costs) == 3


def test_the_engines_ran_under_the_settings_that_were_asked_for(run: Path) -> None:
    found = {name: read(paths.benchmark("tiny", name), Benchmark) for name in VARIANTS}
    assert {record.device for record in found.values()} == {"cpu"}
    cores = len(os.sched_getaffinity(0))
    for name in () if NO_BF16_ON_OPENVINO else ("ov-bf16", "ov-int8", "ov-int4"):
        matched = found[name].profiles["matched"].settings
        assert (
            "bfloat16" in matched["inference_precision_hint"]
            and "bfloat16" in matched["kv_cache_precision"]
        )
        assert matched["dynamic_quantization_group_size"] == "0"
        assert int(matched["inference_num_threads"]) == cores
    for name in VLLM:
        assert len(found[name].profiles["deployed"].settings["threads"].split(",")) == cores
    assert len({record.machine["cpu"] for record in found.values()}) == 1
    assert found["ov-bf16"].machine["numa_nodes"]


def test_a_moved_speedup_times_nothing_again(run: Path) -> None:
    recipe = run / "recipes" / "tiny.yaml"
    text = recipe.read_text()
    try:
        recipe.write_text(
            text.replace("  p99_kl:", "  speedup: {int8: 9, int4: 9, int2: 9}\n  p99_kl:")
        )
        stages = {
            name
            for name in json.loads(command("dvc", "status", "--json").stdout)
            if "@tiny" in name
        }
        assert "gate@tiny--ov-int8" in stages
        assert not [stage for stage in stages if stage.startswith(("quantize", "evaluate"))]
        assert "benchmark@tiny" not in stages
        done = command("quantgate", "require", "tiny", "ov-int8")
        assert done.returncode == 1
        assert "ov-int8 (accurate but not faster: " in done.stderr
    finally:
        recipe.write_text(text)


@needs_int4_on_vllm
def test_the_comparison_answers_the_question(run: Path) -> None:
    shown = command("quantgate", "compare", "tiny")
    assert shown.returncode == 0, shown.stderr
    found = json.loads(command("quantgate", "compare", "tiny", "--json").stdout)
    titles = [section["title"] for section in found["sections"]]
    assert titles == [
        "As deployed",
        "Like for like: unquantized",
        "Like for like: 4-bit weights in groups of 128",
    ]
    four_bits = found["sections"][2]
    assert [row["variant"] for row in four_bits["rows"]] == ["ov-int4", "gptq-int4", "awq-int4"]
    assert "scheme: asymmetric (ov-int4 and awq-int4), symmetric (gptq-int4)" in four_bits["note"]
    assert (
        "embedding and output layer: int8 (ov-int4), floats (gptq-int4 and awq-int4)"
        in four_bits["note"]
    )
    goals = {item["goal"]: item["variant"] for item in found["recommendations"]}
    assert goals["smallest"] in VARIANTS
    assert goals["fastest"] in ("ov-int8", "ov-int4")
    before = run / "before.json"
    before.write_text(paths.report("tiny", "json").read_text())
    assert command("quantgate", "compare", "tiny", "--before", "before.json").returncode == 0


def test_dvc_plots_are_the_reports_charts_and_need_no_network(run: Path, tmp_path: Path) -> None:
    done = command("dvc", "plots", "show", "artifacts/plots/tiny", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "index.html").read_text()
    assert "<script" not in page
    assert "http" not in page
    shown = [tmp_path / name for name in re.findall(r'<img src="([^"]+)"', page)]
    assert [path.read_text() for path in shown] == [
        path.read_text() for path in sorted(paths.plots("tiny").iterdir())
    ]
    assert all(name in path.read_text() for path in shown for name in VARIANTS)
