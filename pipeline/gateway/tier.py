"""One approved artifact on one server, as the gateway sees it now."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass, field

from pipeline.gateway import deploy_file
from pipeline.gateway.approved import Approved
from pipeline.gateway.breaker import Breaker
from pipeline.gateway.device_time import DeviceTime
from pipeline.gateway.silence import Silence

BYTES_PER_TOKEN = 4.0  # of English text, until the server has counted some
LATELY = 0.1  # weight of the last prompt in their mean
STARTING = "starting"


@dataclass
class Tier:
    """`url` ends in /v1. `unready`: why it takes no requests, None if it does; `withdrawn`: why it
    is not approved any more; `asked_as`: the model's name there, which holds the digest."""

    model: str
    name: str
    settings: deploy_file.Tier
    approved: Approved
    url: str = ""
    key: str | None = None
    unready: str | None = STARTING
    withdrawn: str | None = None
    asked_as: str = ""
    breaker: Breaker = field(default_factory=Breaker)
    device: DeviceTime = field(default_factory=DeviceTime)
    silence: Silence = field(default_factory=Silence)
    bytes_per_token: float = BYTES_PER_TOKEN
    _full_until: float = 0.0
    _places: int = 0  # requests in flight when it said that it is full

    def takes_requests(self, now: float) -> bool:
        return self.is_up(now) and not self.is_full(now)

    def is_up(self, now: float) -> bool:
        return self.unready is None and self.is_approved and not self.breaker.is_open(now)

    def is_full(self, now: float) -> bool:
        """As it has said itself, until one of its requests has ended or some time has passed."""
        return now < self._full_until and self.device.running >= self._places

    def said_full(self, until: float) -> None:
        """To a request that is not in flight any more; `until` by time.monotonic."""
        self._full_until, self._places = until, self.device.running

    @property
    def is_approved(self) -> bool:
        """By policy and log as they were read last; an approval may have ended since."""
        until = self.approved.until
        over = until is not None and until <= datetime.datetime.now(datetime.UTC)
        return self.withdrawn is None and not over

    @property
    def load(self) -> float:
        """Requests in flight, of those that run at once."""
        return self.device.running / self.approved.capacity

    def first_ms(self, prompt_bytes: int) -> float:
        """What its benchmark promises for a request that comes now; without one, infinite."""
        promise = self.approved.promise
        if promise is None:
            return math.inf
        return promise.first_ms(self.device.running, prompt_bytes / self.bytes_per_token)

    def answer_ms(self, prompt_bytes: int, tokens: int) -> float:
        """Likewise of the whole answer."""
        promise = self.approved.promise
        if promise is None:
            return math.inf
        prompt_tokens = prompt_bytes / self.bytes_per_token
        most = min(tokens, self.approved.served.serve.max_model_len)
        return promise.answer_ms(self.device.running, prompt_tokens, most)

    def counted(self, prompt_bytes: int, prompt_tokens: int) -> None:
        """Learns from the server how long this traffic's tokens are."""
        if prompt_tokens:
            seen = prompt_bytes / prompt_tokens
            self.bytes_per_token += LATELY * (seen - self.bytes_per_token)
