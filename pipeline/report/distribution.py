"""How far the next-token distributions lie from the reference's: quantiles that a curve can be
drawn from."""

from __future__ import annotations

import math

import numpy as np

from pipeline.records import Distribution, Divergence, Evaluation

# Denser where it matters: a few bad positions ruin an answer.
LEVELS = (
    0.01,
    0.02,
    0.05,
    0.1,
    0.15,
    0.2,
    0.25,
    0.3,
    0.35,
    0.4,
    0.45,
    0.5,
    0.55,
    0.6,
    0.65,
    0.7,
    0.75,
    0.8,
    0.85,
    0.875,
    0.9,
    0.92,
    0.94,
    0.95,
    0.96,
    0.97,
    0.975,
    0.98,
    0.985,
    0.99,
    0.9925,
    0.995,
    0.9965,
    0.998,
    0.999,
    0.9993,
    0.9995,
    0.9998,
    0.9999,
)


def kl_distribution(evaluation: Evaluation) -> dict[str, Distribution]:
    """Per text of the deployed view. Levels that fewer than one position lies beyond are left out.

    Empty for an artifact that was not measured.
    """
    view = evaluation.views.get("deployed")
    return {divergence.text: _of(divergence) for divergence in view.divergence} if view else {}


def _of(divergence: Divergence) -> Distribution:
    values = [kl for window in divergence.windows for kl in window.kl_nats if math.isfinite(kl)]
    levels = [level for level in LEVELS if len(values) * (1 - level) >= 1]
    quantiles = np.quantile(values, levels).tolist() if levels else []
    return Distribution(
        positions=len(values),
        quantiles={f"{level:g}": value for level, value in zip(levels, quantiles, strict=True)},
        largest=max(values, default=None),
    )
