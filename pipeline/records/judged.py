"""What was concluded: verdicts with their checks."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pipeline.records.base import Record, Sealed

Status = Literal["PASS", "FAIL", "INCONCLUSIVE"]
VIEWS = ("deployed", "weights")


class Question(NamedTuple):
    """What a check asks: the `kind`, in which of the VIEWS, of which text (and positions) or task;
    "" for what it has not.

    Its name, by which people waive it, is these three words. What fails before a kind is asked has
    none."""

    kind: str
    view: str = ""
    of: str = ""

    @classmethod
    def named(cls, name: str) -> Self:
        words = name.split(" ")
        kind = "" if words[0] in VIEWS else words.pop(0)
        view = words.pop(0) if words and words[0] in VIEWS else ""
        return cls(kind, view, " ".join(words))

    @property
    def name(self) -> str:
        return " ".join(filter(None, self))


class Check(Record):
    """One question of the gate: measured value, its interval, the limit, and the reason in a
    sentence. In files a check has its name in place of kind, view and of."""

    kind: str
    view: str = ""
    of: str = ""
    status: Status
    value: float
    low: float
    high: float
    limit: float
    n: int
    method: str
    reason: str

    @property
    def name(self) -> str:
        return Question(self.kind, self.view, self.of).name

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            return given
        rest = {key: value for key, value in given.items() if key != "name"}
        return {**rest, **Question.named(given["name"])._asdict()}

    @model_serializer(mode="wrap")
    def _with_name(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            "name": self.name,
            **{key: value for key, value in dump(self).items() if key not in Question._fields},
        }


class TaskComparison(Record):
    """One task beside the reference. `recovery` is chance-corrected: (accuracy - chance) /
    (reference - chance).

    `mcnemar_p` is exact and two-sided. `lost` and `won` name the items (task/document) that
    changed."""

    name: str
    n: int
    reference_accuracy: float
    accuracy: float
    recovery: float
    mcnemar_p: float
    lost: list[str]
    won: list[str]
    length_ratio: float | None


class Tails(Record):
    """Quantiles of the change of the true token's probability, by level."""

    view: str
    text: str
    quantiles: dict[str, float]


class Look(Record):
    """The pooled accuracy at one look at the items drawn so far.

    `error` is what the look alone may be wrong with, `spent` what all looks up to it may;
    `pass_power` and `fail_power` the probabilities that the last look passes or fails if it goes on
    like this."""

    items: int
    spent: float
    error: float
    status: Status
    value: float
    low: float
    high: float
    pass_power: float
    fail_power: float
    futile: bool


class Verdict(Sealed):
    recipe: str
    variant: str
    status: Status
    checks: list[Check]
    tasks: list[TaskComparison]
    tails: list[Tails]
    looks: list[Look] = Field(default=[])
    reference_sha256: str
    candidate_sha256: str
