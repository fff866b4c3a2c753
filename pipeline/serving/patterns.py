"""Which patterns of JSON schemas are kept while decoding: what the grammar compiler reads as others
do, and what is JSON without being escaped, since it escapes nothing."""

from __future__ import annotations

import re

CLASS = r"\[\^?(?:\\[^0-9]|[^\]\\\[])+\]"
ATOM = (
    rf"{CLASS}|\\[dDwWsS]|\\[^\w\s]|\\x[0-9A-Fa-f]{{2}}|\\u[0-9A-Fa-f]{{4}}|[^\\^$|?*+()\[\]{{}}]"
)
REPEAT = r"[*+?]\??|\{\d+(?:,\d*)?\}\??"
TOKEN = re.compile(
    rf"(?P<atom>{ATOM})|(?P<repeat>{REPEAT})|(?P<open>\((?:\?:)?)|(?P<close>\))|(?P<or>\|)",
    re.DOTALL,
)
BEGIN = "begin"
NEVER_AFTER = {
    "repeat": {BEGIN, "open", "or", "repeat"},
    "or": {BEGIN, "open", "or"},
    "close": {"open", "or"},
}
# The compiler takes the first for [^, and knows no negation of what is not ASCII.
MISREAD = re.compile(r"\[\\\^|\[\^.*([^\x00-\x7f]|\\u(?!00[0-7]))", re.DOTALL)
ESCAPED = '"\\' + "".join(map(chr, range(0x20)))
# It reads tokens slower and slower, and all requests wait for it.
STACKED = ["open", "atom", "repeat", "close", "repeat"]
LONGEST, MOST = 512, 128
SUPPORTED = (
    "characters and classes such as [A-Za-z0-9 ] without quotation marks, backslashes and control"
    f" characters, \\d, \\w, groups, | within a group, repetitions up to {MOST}, ^ at the start, $"
    " at the end"
)


def fault(pattern: str) -> str | None:
    """What of it is not kept, if anything."""
    if len(pattern) > LONGEST:
        return f"{len(pattern)} characters, more than {LONGEST}"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"a pattern that does not compile: {error}"
    return _fault(re.sub(r"^\^|(?<!\\)\$$", "", pattern))


def _fault(body: str) -> str | None:
    kinds, place = [BEGIN], 0
    while place < len(body):
        token = TOKEN.match(body, place)
        kind = (token and token.lastgroup) or ""
        top = kinds.count("open") == kinds.count("close")
        if not token or kinds[-1] in NEVER_AFTER.get(kind, ()) or (kind == "or" and top):
            return f"{body[place : place + 3]!r}"
        if kind == "atom" and (MISREAD.match(token[0]) or re.search(token[0], ESCAPED)):
            return f"{token[0]!r}"
        kinds.append(kind)
        if kinds[-len(STACKED) :] == STACKED or _largest(kind, token[0]) > MOST:
            return f"the repetition {token[0]!r}"
        place = token.end()
    return None


def _largest(kind: str, text: str) -> int:
    return max(map(int, re.findall(r"\d+", text)), default=0) if kind == "repeat" else 0
