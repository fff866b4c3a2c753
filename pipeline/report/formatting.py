"""Figures as text, to three significant digits: whatever was not measured says so."""

from __future__ import annotations

import math
from typing import Any

from pipeline.records import Check, Estimate, Speedup, Value

MISSING = "not measured"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MINUS, TIMES = "\u2212", "\u00d7"


def finite(value: float | None) -> float | None:
    """The number, or None for what is none."""
    return None if value is None or not math.isfinite(value) else float(value)


def number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    known = finite(value)
    if known is None:
        return MISSING
    sign = "+" if signed else ""
    rounded = float(f"{known:.1e}" if abs(known) < 1e-4 else f"{known:.{digits}g}")
    if 0 < abs(rounded) < 1e-4:  # of what is written: 0.0000999996 is 0.0001, not 1.0e-4
        mantissa, exponent = f"{known:{sign}.1e}".split("e")
        text = f"{mantissa}{TIMES}10{str(int(exponent)).translate(SUPERSCRIPT)}"
    else:
        whole = abs(rounded) >= 10 ** (digits - 1)
        text = f"{rounded:{sign},.0f}" if whole else f"{rounded:{sign}.{digits}g}"
    return text.replace("-", MINUS)


def fixed(value: float | None, digits: int = 2) -> str:
    known = finite(value)
    return MISSING if known is None else f"{known:,.{digits}f}".replace("-", MINUS)


def percent(value: float | None, digits: int = 1, signed: bool = False) -> str:
    known = finite(value)
    if known is None:
        return MISSING
    rounded = round(known, digits + 2) or 0.0  # no minus before a zero
    return f"{rounded:{'+' if signed else ''}.{digits}%}".replace("-", MINUS)


def times(value: float | None) -> str:
    known = finite(value)
    return MISSING if known is None else f"{number(known)}{TIMES}"


def size(value: float | None) -> str:
    """Bytes in decimal units."""
    known = finite(value)
    if known is None:
        return MISSING
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if known >= 10**power:
            return f"{number(known / 10**power)} {unit}"
    return f"{known:.0f} B"


def bounds(interval: Estimate | Value | Check | Speedup | None, digits: int = 3) -> str:
    """An interval; empty where there is none."""
    if interval is None or finite(interval.low) is None or finite(interval.high) is None:
        return ""
    return f"{number(interval.low, digits)} to {number(interval.high, digits)}"


def estimate(value: Estimate | Value | None, digits: int = 3) -> str:
    """A median with its interval, where there is one."""
    return (
        MISSING
        if value is None
        else _with_bounds(number(value.median, digits), bounds(value, digits))
    )


def checked(check: Check | None, digits: int = 3) -> str:
    """A check's value with its one-sided bounds."""
    return (
        MISSING
        if check is None
        else _with_bounds(number(check.value, digits), bounds(check, digits))
    )


def faster(speedup: Speedup | None) -> str:
    return MISSING if speedup is None else _with_bounds(times(speedup.ratio), bounds(speedup))


def _with_bounds(middle: str, interval: str) -> str:
    return middle if middle == MISSING or not interval else f"{middle} ({interval})"


def setting(value: Any) -> str:
    """A setting of any kind in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={setting(one)}" for key, one in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(setting(one) for one in value) or "none"
    if value is None:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else str(value)


def listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
