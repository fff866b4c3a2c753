"""`approve --remeasure SHARE`: a drawn part of an evaluation, measured again on the approver's
machine and compared.

What two honest measurements may differ by is taken from the engine itself: the unquantized model's
distance from the float32 reference on that engine, the noise floor. KL behaves as a squared
distance, so that its root keeps the triangle inequality: each measurement lies one floor from the
exact one, and the roots of the KL of one window, position by position, at most two apart
(Minkowski). The negative log-likelihood of a window and its top tokens likewise. Items that change
their score are compared with those that the unquantized model changes, by Fisher's exact test."""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Callable
from typing import NamedTuple

from scipy.stats import hypergeom

from pipeline import engines, paths, records
from pipeline.engines import host
from pipeline.errors import SignoffError
from pipeline.evidence import evaluations, keeping
from pipeline.evidence.candidate import Candidate
from pipeline.planning import estimate
from pipeline.records import VIEWS, Evaluation, Remeasured, Task, View, artifact
from pipeline.release.signoff.drawing import span
from pipeline.runtime import costs
from pipeline.source import checkpoint
from pipeline.stages import measuring

CHANGED_BY_CHANCE = (
    1e-3  # probability with which an honest engine's changed items are taken for a forgery
)

Figure = dict[tuple[str, int], list[float]]  # by text and number of the window
Scores = dict[
    tuple[str, int], tuple[str, float]
]  # by task and document: the hash of what was asked, and the score


class Again(NamedTuple):
    """What was measured again: views by name, and tasks."""

    views: dict[str, View]
    tasks: list[Task]


def remeasure(candidate: Candidate, share: float) -> Remeasured:
    """Raises SignoffError if the part is not what the evaluation says, or nothing was measured; as
    evaluating does, otherwise."""
    name, recipe, baseline = candidate.name, candidate.recipe, candidate.baseline
    recorded = evaluations.evaluation_of(candidate)
    lacking = host.lacks(candidate.variant, recipe.serve_for(candidate.variant_name))
    if nothing := recorded.failure or recorded.lacking or lacking:
        raise SignoffError(f"{candidate}: --remeasure: nothing can be measured again: {nothing}")
    model, manifest = keeping.verified(candidate.place)
    source, _ = checkpoint.open_pinned(name, recipe.model)
    seed = secrets.randbits(32)
    rng = random.Random(seed)
    spans: measuring.Spans = {
        task.name: span(len(task.items), share, rng) for task in recorded.tasks
    }
    job = measuring.engine_job(candidate, manifest.engine, model, source, spans)
    job |= {"logprobs": str(paths.logprobs(name)), "share": share, "seed": seed}
    stage = candidate.stage("remeasure")
    with artifact.stage_folder(stage) as folder:
        needs = estimate.needs_bytes(recipe, "evaluate", candidate.variant)
        done = costs.run(
            stage, engines.ENGINES[manifest.engine].environment, "remeasure", job, folder, needs
        )
    again = Again(
        {label: View.model_validate(view) for label, view in done.value["views"].items()},
        [Task.model_validate(task) for task in done.value["tasks"]],
    )
    reference = records.read(paths.evaluation(name, "reference"), Evaluation)
    floor = records.read(paths.evaluation(name, baseline), Evaluation) if baseline else recorded
    return held(str(candidate), recorded, again, floor, reference).model_copy(
        update={"seed": seed, "share": share}
    )


def held(
    what: str, recorded: Evaluation, again: Again, floor: Evaluation, reference: Evaluation
) -> Remeasured:
    """What was compared; `floor` is the evaluation of the unquantized model on the engine. Raises
    SignoffError for a difference."""
    apart: dict[str, float] = {}
    for label in VIEWS:
        for figure, (of, resolution) in FIGURES.items():
            exact, noise = of(reference.views["reference"]), [resolution]
            for window, values in of(floor.views[label]).items():
                noise.append(_distance(values, exact.get(window, [0.0] * len(values))))
            apart[f"{label} {figure}"] = _moved(
                f"{what}: {label} {figure}",
                of(recorded.views[label]),
                of(again.views[label]),
                2 * max(noise),
            )
    asked, changed = _items(what, recorded.tasks, again.tasks, floor.tasks, reference.tasks)
    windows = sum(len(text.windows) for text in again.views["deployed"].perplexity)
    return Remeasured(
        seed=0, share=1, windows=windows, items=asked, changed_items=changed, of_noise=apart
    )


def _moved(what: str, recorded: Figure, again: Figure, allowed: float) -> float:
    """How far a window moved at most, as a share of what noise allows. Raises SignoffError if that
    is not enough."""
    worst = 0.0
    for window, values in again.items():
        apart = _distance(values, recorded.get(window, []))
        if not apart <= allowed:
            raise _refused(
                what,
                f"window {window[1]} of {window[0]!r} lies {apart:.3g} from what is recorded, and"
                f" the engine's noise explains {allowed:.2g}",
            )
        worst = max(worst, apart / allowed)
    return worst


def _refused(what: str, why: str) -> SignoffError:
    return SignoffError(f"{what}: measured again here, it is not what the evaluation says: {why}.")


def _distance(ours: list[float], theirs: list[float]) -> float:
    """Root of the mean square of the differences; NaN where one is missing."""
    if len(ours) != len(theirs):
        return math.nan
    return math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / len(ours))


def _nll(view: View) -> Figure:
    """Nats per token."""
    return {
        (text.text, w.index): [w.nll_nats / w.tokens]
        for text in view.perplexity
        for w in text.windows
    }


def _root_kl(view: View) -> Figure:
    """At each compared position; rounding makes some a little less than none."""
    return {
        (text.text, w.index): [math.sqrt(max(kl, 0.0)) for kl in w.kl_nats]
        for text in view.divergence
        for w in text.windows
    }


def _other_top(view: View) -> Figure:
    """How many positions have another most likely token than the reference."""
    return {
        (text.text, w.index): [float(len(w.kl_nats) - w.same_top)]
        for text in view.divergence
        for w in text.windows
    }


# Of a window; and the least that two honest measurements may differ by, which rounding in float32
# or one near tie makes.
FIGURES: dict[str, tuple[Callable[[View], Figure], float]] = {
    "negative log-likelihood": (_nll, 1e-5),
    "root of KL": (_root_kl, 1e-3),
    "top tokens": (_other_top, 1.0),
}


def _items(
    what: str, recorded: list[Task], again: list[Task], floor: list[Task], reference: list[Task]
) -> tuple[int, int]:
    """How many items were compared, and how many have another score. Raises SignoffError if those
    are too many."""
    ours, theirs = _scores(recorded), _scores(again)
    for (task, document), (asked, _) in theirs.items():
        if ours.get((task, document), ("", 0.0))[0] != asked:
            raise _refused(what, f"document {document} of {task} is another question")
    changed = sum(ours[key][1] != score for key, (_, score) in theirs.items())
    unquantized, exact = _scores(floor), _scores(reference)
    usual = sum(exact[key][1] != score for key, (_, score) in unquantized.items() if key in exact)
    both = len(unquantized) + len(theirs)
    if (
        changed
        and hypergeom.sf(changed - 1, both, usual + changed, len(theirs)) < CHANGED_BY_CHANCE
    ):
        raise _refused(
            what,
            f"{changed} of {len(theirs)} items have another score; of the unquantized model on this"
            f" engine {usual} of {len(unquantized)} differ from the reference",
        )
    return len(theirs), changed


def _scores(tasks: list[Task]) -> Scores:
    return {
        (item.task, item.doc_id): (item.tokens_hash, item.score)
        for task in tasks
        for item in task.items
    }
