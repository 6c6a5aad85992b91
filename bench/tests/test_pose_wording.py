import math

import pytest

from bench.posing.numbers import NUMBERS, RECALL
from bench.posing.wording import WORDS, in_unit, joined


def plain(value, decimals):
    return f"{value:.{decimals}f}"


def test_every_number_has_words_of_its_own():
    names = [number.name for number in (RECALL, *NUMBERS)]
    assert set(WORDS) == set(names)
    assert len(set(WORDS.values())) == len(names)


@pytest.mark.parametrize(
    ("name", "unit", "value", "text"),
    [
        ("rotation_median_deg", "deg", 4.214, "4.21°"),
        ("depth_median_m", "m", 0.03104, "0.0310 m"),
        ("depth_within_5_percent", "share", 0.713, "71.30 %"),
        ("oks_mean_all", "share", 0.912, "0.9120"),
        ("translation_median_m", "m", math.inf, "inf m"),
    ],
)
def test_a_value_is_written_in_its_unit(name, unit, value, text):
    assert in_unit(name, unit, value, plain) == text


def test_reasons_that_end_alike_become_one_and_others_stay():
    assert joined(["a 1, margin 2: worse.", "b 3, margin 2: worse."]) == "a 1, margin 2; b 3, margin 2: worse."
    assert joined(["a: worse.", "b: it stopped."]) == "a: worse. b: it stopped."
    assert joined(["Nothing was matched.", "Nothing was matched."]) == "Nothing was matched."
    assert joined([]) == ""
