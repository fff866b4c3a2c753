"""What an engine cannot do on this machine, since its processor lacks the instructions."""

from __future__ import annotations

import platform

from pipeline.capabilities import ENGINES
from pipeline.recipe import Recipe, Serve, Variant
from pipeline.runtime import environments, machine

X86 = ("x86_64", "AMD64")  # others have instructions of other names


def lacks(variant: Variant, serve: Serve) -> str | None:
    """Why the variant cannot run here as it serves; None if it can, as far as is known."""
    engine = ENGINES[variant.engine]
    asked = {variant.weights, *({"bf16 precision"} if serve.precision == "bf16" else set())}
    if engine.device(environments.device()) != "cpu" or platform.machine() not in X86:
        return None
    there = machine.describe()["instruction_sets"]
    for what, instructions in engine.needs.items():
        if what in asked and instructions not in there:
            return (
                f"{engine.name} runs {what} on a processor with {instructions} alone, and this"
                f" machine has {', '.join(there) or 'none of those it knows'}"
            )
    return None


def lacking(recipe: Recipe) -> dict[str, str]:
    """The variants that cannot run here, with the reasons."""
    reasons = {
        name: lacks(variant, recipe.serve_for(name)) for name, variant in recipe.variants.items()
    }
    return {name: reason for name, reason in reasons.items() if reason}
