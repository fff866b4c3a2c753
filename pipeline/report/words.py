"""Figures in words: whatever was not measured says so."""

from __future__ import annotations

import math
from typing import Any

MISSING = "not measured"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MINUS, TIMES = "\u2212", "\u00d7"


def dig(value: Any, *keys: Any) -> Any:
    """The value behind the keys, or None where one of them is missing."""
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def finite(value: Any) -> float | None:
    """The number, or None for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def number(value: Any, digits: int = 4, signed: bool = False) -> str:
    found = finite(value)
    if found is None:
        return MISSING
    if abs(found) >= 10 ** (digits - 1):
        text = f"{found:{'+' if signed else ''},.0f}"
    elif 0 < abs(found) < 1e-4:
        mantissa, exponent = f"{found:.1e}".split("e")
        text = f"{mantissa}{TIMES}10{str(int(exponent)).translate(SUPERSCRIPT)}"
    else:
        text = f"{found:{'+' if signed else ''}.{digits}g}"
    return text.replace("-", MINUS)


def fixed(value: Any, digits: int = 2) -> str:
    found = finite(value)
    return MISSING if found is None else f"{found:,.{digits}f}".replace("-", MINUS)


def percent(value: Any, digits: int = 1, signed: bool = False) -> str:
    found = finite(value)
    return MISSING if found is None else f"{found:{'+' if signed else ''}.{digits}%}".replace("-", MINUS)


def times(value: Any) -> str:
    found = finite(value)
    return MISSING if found is None else f"{found:.2f}{TIMES}"


def size(value: Any) -> str:
    """Bytes in decimal units."""
    found = finite(value)
    if found is None:
        return MISSING
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if found >= 10**power:
            return f"{number(found / 10**power, 3)} {unit}"
    return f"{found:.0f} B"


def estimate(value: Any, digits: int = 4) -> str:
    """A median with its interval, where there is one."""
    middle, low, high = (finite(dig(value, key)) for key in ("median", "low", "high"))
    if middle is None:
        return MISSING
    if low is None or high is None:
        return number(middle, digits)
    return f"{number(middle, digits)} ({number(low, digits)} to {number(high, digits)})"


def setting(value: Any) -> str:
    """A setting of any kind in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={setting(found)}" for key, found in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(setting(found) for found in value) or "none"
    if value is None:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else str(value)


def listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
