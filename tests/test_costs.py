"""Memory is looked at before a stage starts, and what it took is kept; the machine is measured
once."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, paths
from pipeline.errors import NoMemory
from pipeline.records import Samples, Speed, StageCost, read
from pipeline.runtime import costs, machine, process, speed
from pipeline.runtime.machine import Memory

GB = 10**9
RATES = {
    "float32_flops": 2e11,
    "bfloat16_flops": 8e11,
    "memory_bytes_per_s": 4e10,
    "disk_bytes_per_s": 1e9,
}


@pytest.mark.parametrize(
    ("needs_gb", "said"),
    [
        (5, None),
        (
            12,
            (
                "needs about 12.0 GB of memory, 10.0 of 16.0 GB are free: stop other programs, or"
                " try it nonetheless with"
            ),
        ),
        (
            20,
            "use a machine with more memory, or try it nonetheless with QUANTGATE_IGNORE_MEMORY=1",
        ),
        (40, r"use a machine with more memory\.$"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(
    needs_gb: float, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: Memory(16 * GB, 10 * GB))
    if said is None:
        costs.require_memory("quantize@a--b", needs_gb * GB)
        return
    with pytest.raises(NoMemory, match=said):
        costs.require_memory("quantize@a--b", needs_gb * GB)
    monkeypatch.setenv(costs.IGNORE, "1")
    if needs_gb < 2 * 16:
        costs.require_memory("quantize@a--b", needs_gb * GB)
    else:
        with pytest.raises(NoMemory, match=r"40\.0 GB"):
            costs.require_memory("quantize@a--b", needs_gb * GB)


def test_a_refused_stage_starts_no_worker_and_leaves_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pinned = process.Finished({"tokenizer": {"front": [], "end": []}}, 1.0, GB, GB, 1.0)
    monkeypatch.setattr(process, "run", lambda *_: pinned)
    assert cli.main(["pin", "tiny"]) == 0
    Samples(
        prompts="a", seed=0, prompts_used=1, sha256="", overlap=0, overlap_limit=0, ids=[[1]]
    ).write(paths.samples("tiny"))
    monkeypatch.setattr(process, "run", lambda *_: pytest.fail("a worker was started"))
    monkeypatch.setattr(machine, "memory", lambda: Memory(GB // 4, GB // 8))
    capsys.readouterr()
    before = sorted(paths.ARTIFACTS.rglob("*.json"))
    for stage in (["calibrate", "tiny"], ["reference", "tiny"], ["quantize", "tiny", "ov-bf16"]):
        assert cli.main(stage) == NoMemory.exit_code
        said = capsys.readouterr().err
        assert f"{stage[0]}@tiny" in said
        assert "GB of memory, 0.1 of 0.2 GB are free: use a machine with more memory" in said
    assert sorted(paths.ARTIFACTS.rglob("*.json")) == before


def test_what_a_stage_took_is_kept(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = process.Finished({"a": 1}, 12.0, 3 * GB, 2 * GB, 20.0)
    monkeypatch.setattr(process, "run", lambda *_: done)
    assert costs.run("pin@tiny", "openvino", "check", {}, project) is done
    assert read(paths.cost("pin@tiny"), StageCost) == StageCost(
        stage="pin@tiny",
        environment="openvino",
        wall_s=12,
        processor_s=20,
        peak_memory_bytes=3 * GB,
        peak_anonymous_bytes=2 * GB,
    )


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_control_group_counts_as_the_machine_s(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the group or of one above it, whichever is least; cached files are free memory."""
    kind = "" if version == 2 else "memory"
    _, limit, usage, cached = machine.GROUPS[kind]
    monkeypatch.setattr(machine, "GROUPS", {kind: (tmp_path, limit, usage, cached)})
    for folder, most in (
        (tmp_path / "job", 3_000),
        (tmp_path / "job" / "step", "max" if version == 2 else 2**63 - 4096),
    ):
        folder.mkdir()
        (folder / limit).write_text(f"{most}\n")
        (folder / usage).write_text("2500\n")
        (folder / "memory.stat").write_text(
            "".join(f"{name} 700\n" for name in cached) + "other 1\n"
        )
    membership = "0::/job/step\n" if version == 2 else "4:cpu:/x\n3:memory:/job/step\n"
    assert machine.memory(membership) == Memory(3_000, 3_000 - (2_500 - 1_400))
    whole = machine.memory("0::/elsewhere\n")
    assert whole.total > 10**8


def test_the_best_of_several_tries_counts() -> None:
    ticks = iter(map(float, (0, 0.6, 1, 1.9, 2, 2.4, 3, 3.5, 4, 4.6)))
    acted = count()
    assert speed.best(lambda: next(acted), lambda: next(ticks)) == pytest.approx(0.4)
    assert next(acted) == 4  # the first does not count, and 0.9 + 0.4 + 0.5 is enough


def test_what_takes_far_too_long_is_tried_once() -> None:
    ticks, acted = iter((0.0, 26.0)), count()
    assert speed.best(lambda: next(acted), lambda: next(ticks)) == 26
    assert next(acted) == 1


def test_a_machine_is_measured_until_it_was_quiet(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The better of each rate stays."""
    monkeypatch.setenv("QUANTGATE_ENVIRONMENTS", str(project / "environments-here"))
    monkeypatch.setattr(speed.environments, "is_complete", lambda name: True)
    shares = iter((0.6, 0.05))
    monkeypatch.setattr(machine, "others_share", lambda before, after: next(shares))
    found = iter((RATES, RATES | {"float32_flops": 1e11, "disk_bytes_per_s": 2e9}))
    monkeypatch.setattr(
        process, "run", lambda *_, **__: process.Finished(next(found), 9.0, 0, 0, 9.0)
    )
    assert _rates(speed.here()) == RATES
    assert _rates(speed.here()) == RATES | {"disk_bytes_per_s": 2e9}
    assert _rates(speed.here()) == RATES | {
        "disk_bytes_per_s": 2e9
    }  # quiet: nothing is left to measure


def _rates(found: Speed | None) -> dict[str, Any]:
    assert found is not None
    return {name: getattr(found, name) for name in RATES}
