"""Who may sign off what: signoff/policy.yaml."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from securesystemslib.signer import Key

from pipeline import signing
from pipeline.errors import SignoffError
from pipeline.parsing import parse
from pipeline.recipe.base import Positive, Strict

PATH = Path("signoff/policy.yaml")
Waivable = Literal[
    "perplexity_ratio", "mean_kl", "p99_kl", "top1_agreement", "long_context_kl", "accuracy_drop", "task_drop", "length_ratio",
    "speedup",
]  # fmt: skip


class Person(Strict):
    """Who holds a key. After `until` the key approves and publishes nothing, whenever it signed; its rejections stay."""

    key: Annotated[str, Field(description="public key, PEM: what quantgate signoff key prints")]
    role: str
    until: datetime.date | None = Field(None, description="last day of the key (UTC)")


class Policy(Strict):
    approvals: Positive = Field(1, description="how many people must approve")
    roles: list[str] = Field(default=[], description="roles of which one each must be among them")
    valid_days: Positive = Field(90, description="how long an approval holds")
    author_alone: bool = Field(
        False, description="may who wrote the recipe, or asked for the sign-off, be the only one to approve?"
    )
    waivable: list[Waivable] = Field(default=[], description="kinds of checks that may be waived, the first words of their names")
    waiver_days: Positive = Field(30, description="how long a waiver may hold")
    approvers: dict[str, Person] = Field(default={}, description="by e-mail address")
    publishers: dict[str, Person] = Field(default={}, description="who may sign bundles, by name")

    def keys(self, people: dict[str, Person], now: datetime.datetime | None) -> dict[str, Key]:
        """The public keys that hold now; all of them for None. Raises SignoffError for one that is none."""
        alive = {name: person for name, person in people.items() if not (person.until and now and now.date() > person.until)}
        return {name: signing.public_key(person.key, f"policy: key of {name}") for name, person in alive.items()}


def load(path: Path = PATH) -> Policy:
    """Raises SignoffError if there is none, RecipeError if it is not one."""
    if not path.is_file():
        raise SignoffError(f"{path}: no policy, so nobody may approve or publish. See the README: Sign off.")
    return parse(path, Policy)
