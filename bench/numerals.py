"""How a number is written: fixed decimals, a true minus, no sign on a zero, words for what is not finite."""

from __future__ import annotations

import math

MINUS = "\N{MINUS SIGN}"


def word_of(value: float) -> str | None:
    """The word for a non-finite value, None for a finite one."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else f"{MINUS}inf"
    return None


def fixed(value: float, decimals: int) -> str:
    """``0.7118``: fixed decimals, no plus sign."""
    text = f"{abs(value):,.{decimals}f}"
    negative = value < 0 and float(text.replace(",", "")) != 0
    return word_of(value) or (MINUS + text if negative else text)


def signed(value: float, decimals: int) -> str:
    """``+0.0011``, ``−0.0059``, ``0.0000``: what rounds to zero has no sign."""
    text = fixed(value, decimals)
    positive = value > 0 and math.isfinite(value) and float(text.replace(",", "")) != 0
    return "+" + text if positive else text
