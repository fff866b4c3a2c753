"""Evaluations made from arrays, as the engines would have measured them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline import gate
from pipeline.recipe import Divergence as Plan
from pipeline.records import (
    Check,
    DivergedWindow,
    Divergence,
    Evaluation,
    Item,
    LoadCheck,
    Perplexity,
    Task,
    View,
    Window,
)
from tests.timed_summaries import OPENVINO_SETTINGS, ORIGIN

TOKENS = 32
WINDOWS = 20
PLAN = Plan(
    positions=16 * TOKENS, windows=16
)  # sixteen of the twenty windows, all of their positions
LOADED = LoadCheck(files=1, stored_types={}, relative_error={}, tokenizer_probes=8, generated=[1])
COMPARED = PLAN.chosen(WINDOWS)
SHAPE = (len(COMPARED), TOKENS)


def limits(**change: Any) -> gate.Limits:
    usual = {
        "perplexity_ratio": 1.05,
        "mean_kl": 0.02,
        "p99_kl": 0.2,
        "top1_agreement": 0.9,
        "accuracy_drop": 0.02,
        "task_drop": 0.05,
        "length_ratio": (0.9, 1.1),
        "confidence": 0.95,
        "divergence": PLAN,
        "items": {"t": (3000, 3000)},
        "texts": ("x",),
        "quantized": False,
    }
    return gate.Limits(**{**usual, **change})


def perplexity(
    nll: np.ndarray, indices: list[int], tokens: int = TOKENS, text: str = "x"
) -> Perplexity:
    windows = [
        Window(index=i, nll_nats=float(nll[i]), tokens=tokens, bytes=4 * tokens) for i in indices
    ]
    return Perplexity(text=text, text_sha256=f"hash of {text}", windows=windows)


def divergence(
    kl: np.ndarray, indices: list[int], same: np.ndarray | None = None, text: str = "x"
) -> Divergence:
    """`kl` is [windows compared, positions]; `same` the positions with the same top token, all
    unless given."""
    kl = np.asarray(kl, dtype=float)
    same = np.full(len(kl), kl.shape[1]) if same is None else same
    windows = [
        DivergedWindow(
            index=i, kl_nats=row.tolist(), probability_change=(-row / 2).tolist(), same_top=int(top)
        )
        for i, row, top in zip(indices, kl, same, strict=True)
    ]
    return Divergence(text=text, text_sha256=f"hash of {text}", windows=windows, worst=[])


def draws(
    scores: np.ndarray, name: str = "t", lengths: np.ndarray | None = None, clusters: Any = None
) -> Task:
    """A task whose items were drawn in the order of `scores`; each its own cluster unless
    `clusters` says otherwise."""
    members = range(len(scores)) if clusters is None else clusters
    items = [
        Item(
            task=name,
            doc_id=1000 + place,
            place=place,
            cluster=f"{name}:{members[place]}",
            chance=0.25,
            generated_tokens=None if lengths is None else int(lengths[place]),
            doc_hash=f"d{place}",
            prompt_hash=f"p{place}",
            target_hash="right",
            tokens_hash=f"i{place}",
            score=float(score),
        )
        for place, score in enumerate(scores)
    ]
    return Task(name=name, metric="acc", documents=len(items), items=items)


def evaluation(
    views: dict[str, View], tasks: list[Task], variant: str = "v", engine: str = "fake"
) -> Evaluation:
    return Evaluation(
        recipe="r",
        variant=variant,
        engine=engine,
        versions={},
        artifact_sha256=variant,
        requested={},
        failure=None,
        load_check=LOADED,
        logprobs_sha256="of the reference",
        views=views,
        tasks=tasks,
        wall_s=0,
        peak_memory_bytes=0,
        origin=ORIGIN,
    )


def reference(nll: np.ndarray, tasks: list[Task], tokens: int = TOKENS) -> Evaluation:
    whole = perplexity(nll, list(range(len(nll))), tokens)
    return evaluation(
        {"reference": View(settings={}, perplexity=[whole], divergence=[])},
        tasks,
        "reference",
        "reference",
    )


def candidate(
    nll: np.ndarray,
    tasks: list[Task],
    kl: np.ndarray | float = 0.001,
    same: np.ndarray | None = None,
    plan: Plan = PLAN,
    tokens: int = TOKENS,
    variant: str = "v",
) -> Evaluation:
    """Measured in full in both views; a number for `kl` is that of every position."""
    compared, places = plan.chosen(len(nll)), plan.places(len(nll), tokens, 1)
    values = (
        np.broadcast_to(kl, (len(compared), len(places))) if np.ndim(kl) == 0 else np.asarray(kl)
    )
    distances = [divergence(values, compared, same)]
    deployed = View(
        settings=OPENVINO_SETTINGS,
        perplexity=[perplexity(nll, list(range(len(nll))), tokens)],
        divergence=distances,
    )
    weights = View(
        settings={}, perplexity=[perplexity(nll, compared, tokens)], divergence=distances
    )
    return evaluation({"deployed": deployed, "weights": weights}, tasks, variant)


def with_view(found: Evaluation, name: str, **change: Any) -> Evaluation:
    return found.model_copy(
        update={"views": {**found.views, name: found.views[name].model_copy(update=change)}}
    )


def with_items(
    found: Evaluation, change: Callable[[list[Item]], list[Item]], **task: Any
) -> Evaluation:
    """The same evaluation with the first task's items changed."""
    first = found.tasks[0]
    changed = first.model_copy(update={"items": change(list(first.items)), **task})
    return found.model_copy(update={"tasks": [changed, *found.tasks[1:]]})


def flipped(scores: np.ndarray, lost: int, won: int = 0) -> np.ndarray:
    """The first `lost` right answers wrong, the first `won` wrong ones right."""
    other = scores.copy()
    other[np.flatnonzero(scores == 1)[:lost]] = 0
    other[np.flatnonzero(scores == 0)[:won]] = 1
    return other


def checks(
    theirs: Evaluation, ours: Evaluation, floor: Evaluation | None = None, **change: Any
) -> dict[str, Check]:
    return {
        check.name: check for check in gate.decide(theirs, ours, floor, limits(**change)).checks
    }
