"""Which tier is asked first, and which next. Pure: from what was measured and the load as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.gateway.tier import Tier

SILENCE_S = 5.0  # the least that speaks against a server: a busy machine stands still for seconds
SPARE = 0.1  # of a target: for the network, and for a rescue that takes longer than promised


@dataclass(frozen=True)
class Need:
    """Of one request: `target_ms` for the whole answer; `tokens` that it may have at most, or has
    usually where the request does not say; `most_tokens`: that it can have."""

    target_ms: float | None
    tokens: int
    prompt_bytes: int
    most_tokens: int


def order(tiers: Sequence[Tier], need: Need, now: float) -> list[Tier]:
    """Those that take requests, the one to ask first in front.

    With a target: those that promise to meet it at their present load, as preferred; then the
    others, the quickest first. Without: those with a free place, as preferred; then the least
    loaded."""
    able = [tier for tier in tiers if tier.takes_requests(now)]
    if need.target_ms is None:
        return sorted(able, key=lambda tier: tier.load if tier.load >= 1 else 0.0)
    promised = {tier.name: tier.answer_ms(need.prompt_bytes, need.tokens) for tier in able}
    met = {name: ms <= need.target_ms for name, ms in promised.items()}
    return sorted(able, key=lambda tier: 0.0 if met[tier.name] else promised[tier.name])


@dataclass(frozen=True)
class Patience:
    """How long a try may take until its answer begins; and for how long a server that is asked may
    give nobody an answer before that speaks against it."""

    seconds: float
    silence_s: float


def patience(tier: Tier, others: Sequence[Tier], need: Need, whole: bool) -> Patience:
    """`whole`: until the answer is there. Of a target `need` has what is left.

    With a target: until the last moment from which another tier would still meet it, but never less
    than what this one promises; once nobody meets it any more, until the server seems to hang. Else
    the tier's timeout, and twice its promise of the longest answer."""
    promised_ms = _promised_ms(tier, need, need.tokens, whole)
    known_s = promised_ms / 1000 if promised_ms < math.inf else 0.0
    longest_ms = _promised_ms(tier, need, need.most_tokens, whole)
    longest_s = longest_ms / 1000 if longest_ms < math.inf else 0.0
    usual_s = max(tier.settings.timeout_s, 2 * longest_s)
    silence_s = min(usual_s, max(SILENCE_S, 2 * longest_s)) if longest_s else usual_s / 2
    rescues = (other.answer_ms(need.prompt_bytes, need.tokens) for other in others)
    rescue_ms = min(rescues, default=math.inf)
    if need.target_ms is None or rescue_ms == math.inf:
        return Patience(usual_s, silence_s)
    left_s = (need.target_ms - SPARE * need.target_ms - rescue_ms) / 1000
    is_lost = left_s <= 0 and need.target_ms < promised_ms
    return Patience(min(usual_s, silence_s if is_lost else max(known_s, left_s)), silence_s)


def _promised_ms(tier: Tier, need: Need, tokens: int, whole: bool) -> float:
    if whole:
        return tier.answer_ms(need.prompt_bytes, tokens)
    return tier.first_ms(need.prompt_bytes)
