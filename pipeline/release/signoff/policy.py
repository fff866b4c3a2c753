"""Who may sign off what: signoff/policy.yaml."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from securesystemslib.signer import Key

from pipeline.errors import SignoffError
from pipeline.recipe.base import Positive, Strict
from pipeline.recipe.parsing import parse
from pipeline.release import signing

PATH = Path("signoff/policy.yaml")
PUBLISHER = "publisher"  # the role of who signs bundles
WORD, NAME = re.compile(r"[A-Za-z0-9-]+"), re.compile(r"[A-Za-z0-9][\w.+@-]*")
EMAIL = re.compile(r"[^@\s<>]+@[^@\s<>]+")
Waivable = Literal[
    "perplexity_ratio",
    "mean_kl",
    "p99_kl",
    "top1_agreement",
    "long_context_kl",
    "accuracy_drop",
    "task_drop",
    "length_ratio",
    "speedup",
]
Kind = Literal["approvers", "publishers"]


class Person(Strict):
    """Who holds a key. After `until` the key approves and publishes nothing, whenever it signed;
    its rejections stay."""

    key: Annotated[str, Field(description="public key, PEM: what quantgate signoff key prints")]
    role: str
    until: datetime.date | None = Field(None, description="last day of the key (UTC)")


class Policy(Strict):
    approvals: Positive = Field(1, description="how many people must approve")
    roles: list[str] = Field(default=[], description="roles of which one each must be among them")
    valid_days: Positive = Field(90, description="how long an approval holds")
    author_alone: bool = Field(
        False,
        description=(
            "may who wrote the recipe, or asked for the sign-off, be the only one to approve?"
        ),
    )
    waivable: list[Waivable] = Field(
        default=[], description="kinds of checks that may be waived, the first words of their names"
    )
    waiver_days: Positive = Field(30, description="how long a waiver may hold")
    approvers: dict[str, Person] = Field(default={}, description="by e-mail address")
    publishers: dict[str, Person] = Field(default={}, description="who may sign bundles, by name")

    @field_validator("approvers", "publishers", mode="before")
    @classmethod
    def _nobody(cls, value: Any) -> Any:
        return {} if value is None else value  # the key with nothing below it

    @field_validator("approvers")
    @classmethod
    def _are_people(cls, people: dict[str, Person]) -> dict[str, Person]:
        for name in people:
            if not EMAIL.fullmatch(name):
                raise ValueError(
                    f"found {name!r}, expected the e-mail address that this person commits under:"
                    " it is compared with the recipe's authors"
                )
        keys = [person.key.strip() for person in people.values()]
        for name, key in zip(people, keys, strict=True):
            if keys.count(key) > 1:
                raise ValueError(
                    f"{name}: the key is another approver's too; each person needs a key of"
                    " their own"
                )
        return people

    def holders(self, kind: Kind, now: datetime.datetime) -> dict[str, Key]:
        """The public keys that may sign now, by name. Raises SignoffError if it is nobody's."""
        people = getattr(self, kind)
        keys = self.keys(people, now)
        if not keys:
            verb = "approve" if kind == "approvers" else "publish"
            raise SignoffError(
                f"{PATH}: {kind}: {'every key has ended' if people else 'names nobody'}, so nobody"
                f" may {verb}. Who may makes a key (quantgate signoff key FILE --name NAME --role"
                f" ROLE) and puts the printed line below `{kind}:`; then commit it."
            )
        return keys

    def keys(self, people: dict[str, Person], now: datetime.datetime | None) -> dict[str, Key]:
        """The public keys that hold now; all of them for None. Raises SignoffError for one that is
        none."""
        alive = {
            name: person
            for name, person in people.items()
            if not (person.until and now and now.date() > person.until)
        }
        return {
            name: signing.public_key(person.key, f"policy: key of {name}")
            for name, person in alive.items()
        }


def section(name: str, role: str) -> Kind:
    """Where somebody's line goes. Raises SignoffError for a name or role that the policy would not
    take."""
    if not WORD.fullmatch(role):
        raise SignoffError(
            f"--role: found {role!r}, expected a word of letters, digits and '-', such as reviewer."
        )
    if role != PUBLISHER and not EMAIL.fullmatch(name):
        raise SignoffError(
            f"--name: found {name!r}, expected the e-mail address that this approver commits under:"
            f" it is compared with the recipe's authors. (Who signs bundles, --role {PUBLISHER},"
            " may have any name.)"
        )
    if not NAME.fullmatch(name):
        raise SignoffError(
            f"--name: found {name!r}, expected letters, digits and any of . _ + - @."
        )
    return "publishers" if role == PUBLISHER else "approvers"


def line(name: str, role: str, public: str) -> str:
    """A person as the policy has them, ready to be pasted below its section."""
    pem = public.strip().replace("\n", "\\n")
    return f'  {name}: {{role: {role}, key: "{pem}"}}'


def load(path: Path = PATH) -> Policy:
    """Raises SignoffError if there is none, RecipeError if it is not one."""
    if not path.is_file():
        raise SignoffError(
            f"{path}: no policy there, so nobody is known who may approve or publish. Name one"
            " with --policy FILE that is there (a gateway's: `policy` in deploy.yaml). How one is"
            " made: README, Sign off."
        )
    return parse(path, Policy)
