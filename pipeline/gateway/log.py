"""What happened, a line of JSON each on standard error. No prompt, no answer, no key is in it."""

from __future__ import annotations

import datetime
import json
import sys
from typing import Any

from pipeline.gateway.tier import Tier


def event(kind: str, tier: Tier, **more: Any) -> None:
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    line = {"at": at, "event": kind, "model": tier.model, "tier": tier.name, **more}
    print(json.dumps(line, ensure_ascii=False), file=sys.stderr, flush=True)
