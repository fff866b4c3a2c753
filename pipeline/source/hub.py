"""Why something of the hub cannot be had, in words of ours: each of its libraries raises other
classes, and what they say of a missing network is not for users."""

from __future__ import annotations

NOT_HERE = "it is not in the hub's cache here, and the hub cannot be reached"
BRING = (
    "On a machine with a network run the recipe as far as that, and bring its cache here (HF_HOME)"
)
LONGEST = 200  # characters of a library's own words
CLOSED = "client has been closed"  # after a failed connection, huggingface_hub tries once more so
NO_CACHE = "Couldn't find cache for"  # of datasets, offline


def reason(error: BaseException) -> str:
    """The library's own words only where the network is not at fault."""
    if is_unreachable(error):
        return NOT_HERE
    return f"{type(error).__name__}: {' '.join(str(error).split())[:LONGEST]}".rstrip(".: ")


def is_unreachable(error: BaseException | None) -> bool:
    """Whether the network or the cache is at fault, not what was asked for."""
    while error is not None:
        names = {cls.__name__ for cls in type(error).__mro__}  # httpx's are no OSErrors
        if names & {
            "ConnectionError",
            "TransportError",
            "OfflineModeIsEnabled",
            "TimeoutError",
        } or any(words in str(error) for words in (CLOSED, NO_CACHE)):
            return True
        error = error.__cause__
    return False
