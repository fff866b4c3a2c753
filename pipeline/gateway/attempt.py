"""One try of one request on one server: what it is given, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Literal

from pipeline.gateway.asked import Asked
from pipeline.gateway.deploy_file import Escalation
from pipeline.gateway.flight import Flight
from pipeline.gateway.routing import Patience
from pipeline.gateway.tier import Tier

LARGEST = 2**40  # tokens of one answer, by whatever a server says
JSON = {"Content-Type": "application/json"}
End = Literal[
    "answered",
    "clients",  # refused, by the client's own fault
    "busy",
    "not here",  # refused for what another server may be able to do
    "late",
    "failed",
    "broke off",  # after it had begun
    "not enough",  # by a rule of escalation
    "gave up",  # the client did
]


@dataclass(frozen=True)
class Errand:
    """`rules`: what the answer must be beyond, for it to be given; `patience`: until it begins."""

    tier: Tier
    asked: Asked
    flight: Flight
    rules: Sequence[Escalation]
    patience: Patience

    @property
    def headers(self) -> dict[str, str]:
        """For the client to see who answers."""
        return shown_of(self.tier, self.asked)


def shown_of(tier: Tier, asked: Asked) -> dict[str, str]:
    """Headers of an answer by this tier."""
    return {
        "X-Request-Id": asked.id,
        "X-Quantgate-Tier": tier.name,
        "X-Quantgate-Digest": f"sha256:{tier.approved.digest}",
    }


@dataclass
class Try:
    """How one ended. `why`: for people, and of no prompt or answer; `rule`: that the answer broke;
    `body`: what may still be given, where no other tier has a better one; `ill`: it speaks against
    the server; `passing`: soon the same server may be asked again. `completion_tokens` are the
    server's, before it has said them the parts that came. Times are those of time.monotonic;
    `cost` is in the deployment's currency."""

    end: End = "failed"
    why: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    body: bytes | None = None
    rule: Escalation | None = None
    retry_after_s: float | None = None
    ill: bool = False
    passing: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    began_at: float = field(default_factory=monotonic)
    first_at: float | None = None
    last_at: float = 0.0
    cost: float = 0.0

    def counted(self, answer: dict[str, Any]) -> None:
        """Takes the usage of an answer or an event, where there is one."""
        usage = answer.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = _tokens(usage.get("prompt_tokens"), self.prompt_tokens)
            self.completion_tokens = _tokens(usage.get("completion_tokens"), self.completion_tokens)

    @property
    def good(self) -> bool:
        """Whether `body` is an answer, and no refusal."""
        return self.end == "not enough"

    def failed(self, begun: bool, why: str) -> None:
        """By the server's fault; `begun`: after the client has got some of the answer."""
        self.end, self.why, self.ill = "broke off" if begun else "failed", why, True

    def give(self, errand: Errand) -> None:
        """Hands over what is kept."""
        assert self.body is not None
        errand.flight.begin(self.status, {**self.headers, **errand.headers})
        errand.flight.add(self.body)


def _tokens(given: Any, otherwise: int) -> int:
    return given if type(given) is int and 0 <= given <= LARGEST else otherwise
