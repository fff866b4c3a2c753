"""What the processor does not let an engine do: said before, and neither passed nor failed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import psutil
import pytest

from pipeline import gate
from pipeline.engines import host
from pipeline.recipe import Serve, Variant, load
from pipeline.runtime import environments, machine
from tests import evaluations
from tests.conftest import ROOT

AVX2, AVX512 = ["avx2"], ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"]
GPTQ = Variant(engine="vllm", quantizer="gptq", weights="int4")
INT8 = Variant(engine="vllm", quantizer="compressed-tensors", weights="int8", activations="int8")
OPENVINO = Variant(engine="openvino", quantizer="openvino", weights="int4")
BF16 = Serve(max_model_len=64, precision="bf16")


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Any:
    def have(sets: list[str], processor: str = "x86_64", device: str = "cpu") -> None:
        monkeypatch.setattr(machine, "describe", lambda: {"instruction_sets": sets})
        monkeypatch.setattr("platform.machine", lambda: processor)
        monkeypatch.setattr(environments, "device", lambda: device)

    return have


def test_four_bits_on_vllm_and_bfloat16_on_openvino_need_instructions(there: Any) -> None:
    there(AVX2)
    reason = host.lacks(GPTQ, Serve(max_model_len=64))
    assert reason is not None
    assert reason.startswith("vLLM runs int4 on a processor with avx512f alone")
    assert reason.endswith("this machine has avx2")
    assert "bf16 precision" in str(host.lacks(OPENVINO, BF16))
    for variant in (OPENVINO, INT8, Variant(engine="vllm"), Variant(engine="openvino")):
        assert host.lacks(variant, Serve(max_model_len=64)) is None
    assert host.lacks(Variant(engine="vllm"), BF16) is None  # which has no precision of its own


def test_a_gpu_is_an_excuse_for_the_engine_that_runs_on_it(there: Any) -> None:
    there(AVX2, device="cuda")
    assert host.lacks(GPTQ, Serve(max_model_len=64)) is None
    assert "bf16 precision" in str(host.lacks(OPENVINO, BF16))


@pytest.mark.parametrize("machine_of", [(AVX512,), (AVX2, "aarch64")], ids=str)
def test_elsewhere_nothing_is_lacking(there: Any, machine_of: tuple[Any, ...]) -> None:
    there(*machine_of)
    assert host.lacks(GPTQ, Serve(max_model_len=64)) is None
    assert host.lacks(OPENVINO, BF16) is None


def test_a_recipe_is_told_which_variants_cannot_run_here(
    there: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    there(AVX2)
    assert host.lacking(load("tiny")).keys() == {"gptq-int4", "awq-int4"}
    there(AVX512)
    assert host.lacking(load("tiny")) == {}


def test_what_was_not_measured_neither_passes_nor_fails() -> None:
    reference = evaluations.evaluation({}, [])
    lacking = reference.model_copy(update={"lacking": "not measured: no instructions"})
    verdict = gate.decide(reference, lacking, None, evaluations.limits())
    assert verdict.status == "INCONCLUSIVE"
    assert [check.reason for check in verdict.checks] == ["not measured: no instructions"]
    damaged = lacking.model_copy(update={"failure": "weights that are not the source's"})
    assert gate.decide(reference, damaged, None, evaluations.limits()).status == "FAIL"


def test_a_process_that_ends_while_it_is_counted_counts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    gone = psutil.Process(ended.pid)
    ended.wait()
    monkeypatch.setattr(psutil.Process, "children", lambda self, recursive: [gone])
    assert 0 < machine.processor().own_s < machine.processor().whole_s
