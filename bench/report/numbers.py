"""How numbers are written: one rule per kind of number, the same in the page, the terminal and Markdown.

Signs are true minus signs, a zero has no sign, and non-finite values are written as words. ``None`` is a caller's
business: every function here takes a number.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from bench.numerals import MINUS as MINUS
from bench.numerals import fixed as fixed
from bench.numerals import signed as signed
from bench.numerals import word_of

TIMES = "\N{MULTIPLICATION SIGN}"
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def as_number(value: Any) -> float | None:
    """Read a JSON number of a suite: the words ``nan``, ``inf`` and ``-inf`` become floats, None stays None."""
    return None if value is None else float(value)


def delta(value: float) -> str:
    """AP difference in a table: four decimals."""
    return signed(value, 4)


def delta_short(value: float) -> str:
    """AP difference in the answer: three decimals."""
    return signed(value, 3)


def ratio(value: float) -> str:
    """``2.31×``."""
    return fixed(value, 2) + TIMES


def interval(low_high: Any, decimals: int, *, sign: bool) -> str:
    """``[−0.0059, +0.0011]`` or ``[2.26, 2.36]``."""
    write = signed if sign else fixed
    low, high = (write(float(end), decimals) for end in low_high)
    return f"[{low}, {high}]"


def three_digits(value: float) -> str:
    """Latency and images per second: three significant digits, ``5.12``, ``41.8``, ``101``, ``1,230``."""
    word = word_of(value)
    if word or value == 0:
        return word or "0"
    rounded = float(f"{value:.2e}")
    exponent = math.floor(math.log10(abs(rounded)))
    return fixed(rounded, max(0, 2 - exponent))


def megabytes(value_mb: float) -> str:
    """MB with one decimal from 1 up, else two."""
    return fixed(value_mb, 1 if abs(value_mb) >= 1 else 2)


def percent(share: float) -> str:
    """``0.1 %`` from 0.001: at most two significant digits, a space before the sign."""
    text = f"{share * 100:.2g}" if abs(share) < 0.1 else f"{share * 100:.0f}"
    return text.replace("-", MINUS) + " %"


def scientific(value: float) -> str:
    """``2.1e−06``: three significant digits with a true minus; words for what is not finite, ``0.0`` for zero."""
    return word_of(value) or ("0.0" if value == 0 else f"{value:.3g}".replace("-", MINUS))


def about(count: int) -> str:
    """Images to decide: two digits, rounded up because the number is a lower bound; ``8,200`` from 8,163."""
    step = 10 ** max(len(str(count)) - 2, 0)
    return f"{-(-count // step) * step:,}"


def count_word(count: int) -> str:
    """``three`` up to twelve, else digits."""
    names = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    return names[count] if 0 <= count < len(names) else f"{count:,}"


def seconds(value_s: float) -> str:
    """``0.6 s``, ``38 s``, ``41 min``, ``1 h 12 min``."""
    word = word_of(value_s)
    if word:
        return word
    if value_s < 10:
        return f"{value_s:.1f} s"
    whole = round(value_s)
    if whole < 90:
        return f"{whole} s"
    minutes = round(value_s / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def took(started_at: str, finished_at: str) -> str | None:
    """Length of a run from its two ISO 8601 stamps, None when they are not both stamps."""
    try:
        started, finished = datetime.fromisoformat(started_at), datetime.fromisoformat(finished_at)
        return seconds((finished - started).total_seconds())
    except (ValueError, TypeError):
        return None


def stamp(iso: str) -> str:
    """``2026-08-14 02:10 UTC``; text that is no ISO stamp is returned as it is."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def short_hash(digest: str) -> str:
    """``b1f07c…e93a``; short text stays whole."""
    return digest if len(digest) <= 12 else f"{digest[:6]}{ELLIPSIS}{digest[-4:]}"


def in_words(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def plural(count: int, noun: str, many: str | None = None) -> str:
    """``1 cell``, ``3 cells``, ``1,200 images``."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"
