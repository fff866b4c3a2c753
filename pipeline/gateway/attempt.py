"""One try of one request on one server: what it is given, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.gateway.asked import Asked
from pipeline.gateway.deploy_file import Escalation
from pipeline.gateway.flight import Flight
from pipeline.gateway.tier import Tier

JSON = {"Content-Type": "application/json"}
End = Literal[
    "answered",
    "clients",  # refused, by the client's own fault
    "busy",
    "too long",
    "late",
    "failed",
    "broke off",  # after it had begun
    "not enough",  # by a rule of escalation
    "gave up",  # the client did
]


@dataclass(frozen=True)
class Errand:
    """`rules`: what the answer must be beyond, for it to be given; `patience_s`: until it
    begins."""

    tier: Tier
    asked: Asked
    flight: Flight
    rules: Sequence[Escalation]
    patience_s: float

    @property
    def headers(self) -> dict[str, str]:
        """For the client to see who answers."""
        return {
            "X-Request-Id": self.asked.id,
            "X-Quantgate-Tier": self.tier.name,
            "X-Quantgate-Digest": f"sha256:{self.tier.approved.digest}",
        }


@dataclass
class Try:
    """How one ended. `why`: for people, and of no prompt or answer; `rule`: that the answer broke;
    `body`: what may still be given, where no other tier has a better one. Times are those of
    time.monotonic; `cost` is in the deployment's currency."""

    end: End = "failed"
    why: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    body: bytes | None = None
    rule: Escalation | None = None
    retry_after_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_at: float | None = None
    last_at: float = 0.0
    cost: float = 0.0

    def counted(self, answer: dict[str, Any]) -> None:
        """Takes the usage of an answer or an event, where there is one."""
        usage = answer.get("usage")
        if isinstance(usage, dict):
            given, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
            self.prompt_tokens = given if isinstance(given, int) else 0
            self.completion_tokens = made if isinstance(made, int) else 0

    def give(self, errand: Errand) -> None:
        """Hands over what is kept."""
        assert self.body is not None
        errand.flight.begin(self.status, {**self.headers, **errand.headers})
        errand.flight.add(self.body)
