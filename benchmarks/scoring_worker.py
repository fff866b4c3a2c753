"""The inner end of benchmarks.scoring: runs one job inside a tool environment.

python -m benchmarks.scoring_worker JOB.json      (answers into the job's "out")
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import engines
from pipeline.engines import Distributions, Engine
from pipeline.evaluation import text
from pipeline.recipe import Divergence, Serve
from pipeline.records import Text, Texts
from pipeline.runtime import machine
from pipeline.runtime.leash import tie

TOKENIZER = Path("recipes/tiny/checkpoint")  # the engines want one; only token ids are put to them
# standard deviation of the stored reference's logits: a distribution that is neither flat nor
# one-hot
SPREAD = 2.0


def make(job: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint with random weights, its export to OpenVINO, and the distributions that
    divergence is taken against."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from pipeline.quantizers.export import add_tokenizer, copy_companions, export

    checkpoint, exported, reference = (
        Path(job[name]) for name in ("checkpoint", "exported", "reference")
    )
    torch.manual_seed(job["seed"])
    model = AutoModelForCausalLM.from_config(LlamaConfig(**job["model"]), dtype=torch.bfloat16)
    parameters = sum(tensor.numel() for tensor in model.parameters())
    model.save_pretrained(checkpoint)
    del model
    copy_companions(TOKENIZER, checkpoint)
    export(checkpoint, exported.parent).save_pretrained(exported)
    add_tokenizer(checkpoint, exported)
    rng = np.random.default_rng(job["seed"])
    for number, windows in enumerate(job["rounds"]):
        shape = (len(windows), len(windows[0]) - 1, job["model"]["vocab_size"])
        array = np.lib.format.open_memmap(
            reference / f"{number}.npy", mode="w+", dtype=np.float32, shape=shape
        )
        for place in range(len(windows)):
            logits = torch.from_numpy(rng.standard_normal(shape[1:], dtype=np.float32) * SPREAD)
            array[place] = logits.log_softmax(-1).numpy()
        array.flush()
    return {"parameters": parameters}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds, and processor seconds, of every repeat of the three passes, A B C C B A, each round
    over token ids of its own."""
    name, artifact, serve = job["engine"], Path(job["artifact"]), Serve.model_validate(job["serve"])
    rounds, reference = job["rounds"], Path(job["reference"])
    with engines.open_engine(name, artifact, serve) as engine:
        started = time.monotonic()
        with _scorer(engine, name, artifact, serve) as model:
            loading = time.monotonic() - started
            passes = _passes(engine, model, rounds, reference)
            for run in passes.values():
                run(0)  # warm-up: memory of the full batch size, kernels for its shapes
            seconds: dict[str, list[float]] = {key: [] for key in passes}
            processor: dict[str, list[float]] = {key: [] for key in passes}
            nats: list[float] = []
            before = machine.processor()
            for number in range(len(rounds)):
                print(f"{name}: round {number + 1} of {len(rounds)}", file=sys.stderr, flush=True)
                for key in list(passes)[:: -1 if number % 2 else 1]:
                    started, used = time.perf_counter(), time.process_time()
                    result = passes[key](number)
                    seconds[key].append(time.perf_counter() - started)
                    processor[key].append(time.process_time() - used)
                    if key == "scoring":
                        nats.append(result)
            after = machine.processor()
            settings = engine.settings() if name == "vllm" else {}
        settings = (
            settings or engine.settings()
        )  # OpenVINO's compiles the model once more: only after the scorer is closed
    packages = {package: version(package) for package in engines.ENGINES[name].packages}
    return {
        "seconds": seconds,
        "processor": processor,
        "nats_per_token": float(np.mean(nats)),
        "loading_s": loading,
        "others_share": machine.others_share(before, after),
        "settings": settings,
        "versions": packages,
    }


def _scorer(
    engine: Engine, name: str, artifact: Path, serve: Serve
) -> contextlib.AbstractContextManager[Distributions]:
    """What the engine's own `distributions` runs; OpenVINO's holds it or what decodes, never both
    (`loading_s`: the change)."""
    if name == "openvino":
        from pipeline.engines.paged import PagedModel

        return PagedModel(artifact, serve)
    return contextlib.nullcontext(engine)


def _passes(
    engine: Engine, model: Distributions, rounds: list[Any], reference: Path
) -> dict[str, Callable[[int], float]]:
    everything = Divergence(positions=1 << 40)  # compare at every position
    every = lambda count: list(range(count))  # noqa: E731
    nothing: Any = lambda *_: None  # noqa: E731

    def texts(number: int) -> Text:
        rows = rounds[number]
        return Text(
            name=str(number),
            bos="",
            characters=0,
            tokens_dropped=0,
            sha256="",
            windows=rows,
            bytes=[1] * len(rows),
        )

    def prefill(number: int) -> float:
        engines.generate(engine, rounds[number], [1] * len(rounds[number]), stop_at_eos=False)
        return 0.0

    def scoring(number: int) -> float:
        indices = list(range(len(rounds[number])))
        windows = text.score(model, texts(number), indices, nothing, "scoring").windows
        return sum(window.nll_nats for window in windows) / sum(window.tokens for window in windows)

    def divergence(number: int) -> float:
        found = text.measure(
            model, Texts(texts=[texts(number)]), everything, reference, str, "divergence", every
        )
        return sum(sum(window.kl_nats) for window in found.divergence[0].windows)

    return {"prefill": prefill, "scoring": scoring, "divergence": divergence}


if __name__ == "__main__":
    tie(os.getppid(), signal.SIGKILL)  # whoever ends the command ends the engine with it
    job = json.loads(Path(sys.argv[1]).read_text())
    answer = {"make": make, "measure": measure}[job["task"]](job)
    Path(job["out"]).write_text(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # as pipeline.runtime.worker does: native threads of an engine may hang at exit
