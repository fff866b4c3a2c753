"""What people decided: requests, approvals, rejections and waivers, as the predicates of signed
statements."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field

from pipeline.records.base import Record

Action = Literal["request", "approve", "reject"]


class Waiver(Record):
    """A check that may stay as it is until a date. It changes no verdict."""

    check: str
    reason: str
    until: AwareDatetime


class Subject(Record):
    """What is decided about: an artifact by the SHA-256 of its manifest, and of every record that
    was looked at, by name."""

    recipe: str
    variant: str
    manifest_sha256: str
    evidence: dict[str, str]

    def __str__(self) -> str:
        return f"{self.recipe}/{self.variant}"


class Remeasured(Record):
    """What an approver measured again, drawn with `seed`: windows and items, and those of them that
    have another score.

    `of_noise`: of each figure of a window the largest difference, as a share of what the engine's
    noise explains."""

    seed: int
    share: float
    windows: int
    items: int
    changed_items: int
    of_noise: dict[str, float]


class Decision(Record):
    """One entry of a sign-off log. `previous` is the SHA-256 of the entry before it, empty for the
    first; `authors` wrote the recipe or asked for the sign-off; `commit` is the project's. `until`
    is when an approval ends."""

    action: Action
    subject: Subject
    by: str
    role: str = ""
    at: AwareDatetime
    until: AwareDatetime | None = None
    reason: str = ""
    verdict: str
    waivers: list[Waiver] = Field(default=[])
    remeasured: Remeasured | None = None
    authors: list[str]
    commit: str | None
    policy_sha256: str
    previous: str
