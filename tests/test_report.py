"""The report from records alone: every variant shown, the damaged one too, and nothing joined that
does not belong together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, paths, recipe, records, report
from pipeline.errors import ArtifactError, Rejected
from pipeline.stages import gate as gate_stage
from pipeline.stages import require
from tests import release
from tests.conftest import command
from tests.measured import FILE, manifest

pytestmark = pytest.mark.usefixtures("quick_gate")


def page() -> str:
    return paths.report("tiny", "md").read_text()


def test_page_and_metrics(measured: recipe.Recipe) -> None:
    report.write(measured)
    assert "| ov-int8 | **PASS** | 1 kB | 50% |" in page()
    assert (
        "| ov-int8 | deployed | 1 at once | 150 (148 to 153) | 1.5\u00d7 (1.49 to 1.51) |" in page()
    )
    assert "| 0 of 24 |" in page()
    assert "| ov-int8 | `mean_kl deployed x` | 0.0001 | 0.0001 to 0.0001 |" in page()
    assert "| ov-int8 | world_facts | 100 | 0 | 0 | 100.0% | 1 | \u2013 |" in page()
    assert "| bits | \u2013 | 8 |" in page()
    assert "ov-bf16, ov-int8 on X, 2 cores (avx2)." in page()
    assert "c\\|d" in page()
    metrics: dict[str, Any] = json.loads((paths.metrics("tiny") / "ov-int8.json").read_text())
    assert metrics["tokens_per_s_at_1"] == 150.0
    require.run("tiny", None)


def test_an_artifact_that_could_not_be_measured_is_shown_as_failed(measured: recipe.Recipe) -> None:
    path = paths.evaluation("tiny", "ov-int8")
    found = records.read(path, records.Evaluation)
    found.model_copy(update={"failure": "weights are NaN", "views": {}, "tasks": []}).write(path)
    gate_stage.run("tiny", "ov-int8")
    unmeasured = {
        "measured": False,
        "reason": "the gate says FAIL",
        "profiles": {},
        "machine": {},
        "device": None,
    }
    benchmark = records.read(paths.benchmark("tiny", "ov-int8"), records.Benchmark)
    benchmark.model_copy(update=unmeasured).write(paths.benchmark("tiny", "ov-int8"))
    release.seal_again()
    report.write(measured)
    assert "| ov-int8 | **FAIL** |" in page()
    assert "weights are NaN" in page()
    assert re.search(r"\| ov-int8 \| not measured \| not measured \|", page())
    assert "not benchmarked: the gate says FAIL" in page()
    with pytest.raises(Rejected, match=r"ov-int8 \(FAIL\)"):
        require.run("tiny", None)


def test_records_of_different_artifacts_are_not_joined(measured: recipe.Recipe) -> None:
    benchmark = records.read(paths.benchmark("tiny", "ov-int8"), records.Benchmark)
    benchmark.model_copy(update={"artifact_sha256": "other"}).write(
        paths.benchmark("tiny", "ov-int8")
    )
    with pytest.raises(ArtifactError, match="of another artifact"):
        report.write(measured)


@pytest.mark.parametrize(
    "record",
    [
        "benchmark",
        "requests",
        "manifest",
        "checkpoint",
        "reference",
        "logprobs",
        "texts",
        "word",
        "extension",
        "variant",
        "quantizer",
        "window",
        "serve",
        "samples",
    ],
)
def test_a_verdict_that_is_out_of_date_is_no_pass(
    measured: recipe.Recipe, record: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["require", "tiny", "ov-int8"]) == 0
    if record == "manifest":
        manifest("ov-int8", "openvino", 1000).model_copy(
            update={"files": [FILE.model_copy(update={"sha256": "x"})]}
        ).write(paths.manifest("tiny", "ov-int8"))
    elif record == "checkpoint":
        pinned = records.read(paths.checkpoint("tiny"), records.Checkpoint)
        pinned.model_copy(update={"files": []}).write(paths.checkpoint("tiny"))
    elif record == "reference":
        found = records.read(paths.evaluation("tiny", "reference"), records.Evaluation)
        found.model_copy(update={"tasks": []}).write(paths.evaluation("tiny", "reference"))
    elif record == "logprobs":
        (paths.logprobs("tiny") / "x.npy").write_bytes(b"others")
    elif record == "texts":
        found = records.read(paths.texts("tiny"), records.Texts).texts[0]
        records.Texts(texts=[found.model_copy(update={"sha256": "other"})]).write(
            paths.texts("tiny")
        )
    elif record == "benchmark":
        found = records.read(paths.benchmark("tiny", "ov-int8"), records.Benchmark)
        found.model_copy(update={"artifact_sha256": "other"}).write(
            paths.benchmark("tiny", "ov-int8")
        )
    elif record == "word":
        paths.gate("tiny", "ov-int8").write_text("FAIL\n")
    elif record == "extension":
        paths.extension("tiny", "ov-int8").unlink()
    else:
        old, new = {
            "quantizer": ("quantizer: openvino", "quantizer: rounding"),
            "variant": ("weights: int8}", "weights: int8, symmetric: true}"),
            "window": ("window: 256", "window: 128"),
            "serve": ("kv_cache_gib: 1", "kv_cache_gib: 2"),
            "samples": ("samples: 64", "samples: 8"),
            "requests": ("requests: 16", "requests: 17"),
        }[record]
        text = paths.recipe("tiny").read_text()
        assert old in text
        paths.recipe("tiny").write_text(text.replace(old, new))
    assert cli.main(["require", "tiny", "ov-int8"]) == 2
    said = capsys.readouterr().err
    expected = (
        "out of date",
        "not the artifact that its manifest describes",
        "not those of the recipe now",
        "SHA-256 over",
        "extensions/tiny/ov-int8.json: missing",
    )
    assert any(words in said for words in expected), said


def test_an_accurate_artifact_that_is_not_faster_is_no_pass(
    measured: recipe.Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    path = paths.recipe("tiny")
    path.write_text(path.read_text().replace("  p99_kl:", "  speedup: {int8: 1.4}\n  p99_kl:"))
    assert cli.main(["require", "tiny"]) == 0
    path.write_text(path.read_text().replace("int8: 1.4}", "int8: 1.6}"))
    assert cli.main(["require", "tiny"]) == 1
    assert (
        "ov-int8 (accurate but not faster: 1.50 times ov-bf16's output tokens/s at concurrency 1"
        in capsys.readouterr().err
    )
    assert cli.main(["require", "tiny", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["recipe"], told["passed"]) == ("tiny", False)
    assert (told["variants"]["ov-int8"]["verdict"], told["variants"]["ov-int8"]["performance"]) == (
        "PASS",
        "NOT FASTER",
    )
    assert told["variants"]["ov-int8"]["reasons"][0].startswith("speed: accurate but not faster")
    assert cli.main(["require", "tiny", "ov-bf16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["variants"] == {
        "ov-bf16": {"verdict": "PASS", "performance": "BASELINE", "reasons": []}
    }


def test_an_artifact_whose_weights_changed_is_no_pass(
    measured: recipe.Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    (paths.model("tiny", "ov-int8") / "w").unlink()
    assert cli.main(["require", "tiny", "ov-int8"]) == 2
    assert "w: missing" in capsys.readouterr().err


def test_dvc_shows_metrics_a_row_a_variant_and_plots_without_a_network(
    measured: recipe.Recipe, tmp_path: Path
) -> None:
    shown = command("dvc", "metrics", "show", "artifacts/metrics/tiny")
    rows = shown.stdout.splitlines()
    assert len(rows) == 1 + len(measured.variants), shown.stderr
    assert max(map(len, rows)) < 200
    done = command("dvc", "plots", "show", "artifacts/plots/tiny", "--out", str(tmp_path / "out"))
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<script" not in page, done.stderr
    assert "http" not in page
    charts = [tmp_path / "out" / name for name in re.findall(r'<img src="([^"]+)"', page)]
    assert charts
    assert all("<svg" in chart.read_text() for chart in charts)
