"""A project whose stages have all run, as its records say: made by tests, without any engine."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np

from pipeline import paths, recipe, records
from pipeline.benchmark import speed_statistics
from pipeline.evidence import keeping, settings
from pipeline.planning import index
from pipeline.records import artifact
from pipeline.source import calibration
from pipeline.stages import gate as gate_stage
from tests import evaluations as make
from tests import timed
from tests.conftest import ROOT

VARIANTS = (
    "variants:\n  ov-bf16: {engine: openvino}\n  ov-int8: {engine: openvino, quantizer: openvino,"
    " weights: int8}\n"
)
FILE = records.File(path="w", size_bytes=1000, sha256="5" * 64)
SAMPLES = calibration.ids_hash([[1]])
SHARES = {"w": 8, "config.json": 1, "tokenizer.json": 1}  # of an artifact's size, in tenths


def contents(size: int) -> dict[str, bytes]:
    return {name: name[:1].encode() * (size * share // 10) for name, share in SHARES.items()}


def files(size: int) -> list[records.File]:
    return [records.File(path=name, size_bytes=len(text), sha256=hashlib.sha256(text).hexdigest())
            for name, text in sorted(contents(size).items())]  # fmt: skip


def manifest(variant: str, quantizer: str | None, size: int) -> records.Manifest:
    return records.Manifest(
        recipe="tiny",
        variant=variant,
        engine="openvino",
        device="cpu",
        quantizer=quantizer,
        answered_by="NNCF",
        weights="int8" if quantizer else "bf16",
        requested={},
        resolved={"bits": 8, "a|b": "c|d"},
        notes=["a note"],
        layers=records.Layers(expected=2, quantized=2, skipped=[]),
        stored_types={"int8": 2},
        versions={"nncf": "3.4.0"},
        checkpoint_sha256=digest([FILE]),
        samples_sha256=SAMPLES,
        files=files(size),
        wall_s=12,
        peak_memory_bytes=10**9,
        origin=make.ORIGIN,
    )


def write_weights(variant: str, size: int) -> None:
    folder = paths.model("tiny", variant)
    folder.mkdir(parents=True)
    for name, text in contents(size).items():
        (folder / name).write_bytes(text)


def digest(files: list[records.File]) -> str:
    return artifact.digest(files)


def named(evaluation: records.Evaluation, text: records.Text) -> records.Evaluation:
    """As of that text, and with the weights of both layers compared."""
    said = evaluation.model_copy(
        update={
            "load_check": make.LOADED.model_copy(update={"relative_error": {"a": 0.0, "b": 0.0}})
        }
    )
    return records.Evaluation.model_validate_json(
        said.dumps().replace(f"hash of {text.name}", text.sha256)
    )


def build() -> recipe.Recipe:
    """Records and artifacts of the tiny recipe with two variants that pass, in the project that is
    the working folder."""
    text = (ROOT / "recipes" / "tiny.yaml").read_text()
    text = text.replace("texts: [tiny-text]", "texts: [x]").replace(
        "rare: 0.022", "rare: 0.14"
    )  # of 20 windows
    paths.recipe("tiny").write_text(text[: text.index("variants:")] + VARIANTS)
    shutil.copyfile(paths.prompt_set("tiny-text"), paths.prompt_set("x"))
    index.write()
    loaded = recipe.load("tiny")
    records.Checkpoint(
        repo=None,
        revision=None,
        path="recipes/tiny/checkpoint",
        architecture="L",
        dtype="BF16",
        parameters=5,
        files=[FILE],
    ).write(paths.checkpoint("tiny"))
    records.Samples(
        prompts="p",
        seed=0,
        prompts_used=1,
        sha256=SAMPLES,
        overlap=0.001,
        overlap_limit=0.05,
        ids=[[1]],
    ).write(paths.samples("tiny"))
    nll, tasks = (
        np.random.default_rng(0).normal(64, 6, 20),
        [make.draws(np.ones(100), name) for name in loaded.evaluate.tasks],
    )
    asked = settings.evaluated_under(loaded, "reference", "reference")
    records.Trace(prompts="p", seed=0, sha256="6" * 64, requests=[]).write(paths.trace("tiny"))
    windows = [[0] * (make.TOKENS + 1)] * 20
    text_x = records.Text(
        name="x",
        bos="first",
        characters=0,
        tokens_dropped=0,
        sha256=calibration.ids_hash(windows),
        windows=windows,
        bytes=[1] * 20,
    )
    records.Texts(texts=[text_x]).write(paths.texts("tiny"))
    paths.logprobs("tiny").mkdir(parents=True)
    (paths.logprobs("tiny") / "x.npy").write_bytes(b"distributions")
    stored = {"logprobs_sha256": digest(artifact.hash_files(paths.logprobs("tiny")))}
    own = {"artifact_sha256": digest([FILE]), "recipe": "tiny", "requested": asked, **stored}
    keeping.keep_reference(named(make.reference(nll, tasks), text_x).model_copy(update=own))
    for variant, quantizer, size, speed in (
        ("ov-bf16", None, 2000, 100.0),
        ("ov-int8", "openvino", 1000, 150.0),
    ):
        made = manifest(variant, quantizer, size)
        write_weights(variant, size)
        keeping.keep_manifest(made, paths.place("tiny", variant))
        own = {"artifact_sha256": digest(made.files), "recipe": "tiny", "variant": variant}
        asked = settings.evaluated_under(loaded, variant, "openvino")
        found = named(
            make.candidate(nll + 0.001, tasks, 0.0001, plan=loaded.evaluate.divergence), text_x
        )
        keeping.keep_evaluation(
            found.model_copy(update={**own, **stored, "requested": asked, "engine": "openvino"}),
            paths.place("tiny", variant),
        )
        asked_speed = settings.timed_under(loaded, variant)
        replays = timed.replays([speed - 1, speed, speed + 1])
        levels = speed_statistics.levels(replays, loaded.benchmark.slo)
        keeping.keep_timings(
            records.Timings(**own, replays={"deployed": replays}),
            timed.benchmark(variant, levels, requested=asked_speed, size_bytes=size, **own),
        )
        gate_stage.run("tiny", variant)
    return recipe.load("tiny")
