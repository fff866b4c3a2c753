"""Names that Compose, Kubernetes and systemd all take."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

LONGEST = 40  # with what stands around it, a label of DNS has 63
Name = tuple[str, ...]


def labels(names: Iterable[Name]) -> dict[Name, str]:
    """A label for each: lower case, digits and hyphens. Where two would have the same, or it had to
    be cut, with a hash of the name."""
    given = list(dict.fromkeys(names))
    plain = {name: re.sub("[^a-z0-9]+", "-", "-".join(name).lower()).strip("-") for name in given}
    often = Counter(plain.values())
    return {
        name: short if often[short] == 1 and len(short) <= LONGEST else _hashed(name, short)
        for name, short in plain.items()
    }


def _hashed(name: Name, short: str) -> str:
    digest = hashlib.sha256("\0".join(name).encode()).hexdigest()[:6]
    return f"{short[: LONGEST - 7].rstrip('-')}-{digest}"


def variable(name: str) -> str:
    """An environment variable of that name."""
    return re.sub("[^A-Z0-9]+", "_", name.upper()).strip("_")
