from __future__ import annotations

import math

import pytest

from bench.report import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.0024, "−0.0024"), (0.0011, "+0.0011"), (0.0, "0.0000"), (-0.00003, "0.0000"), (0.00004, "0.0000"),
     (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "−inf")],
)  # fmt: skip
def test_a_delta_has_four_decimals_a_true_minus_and_a_zero_without_sign(value: float, text: str) -> None:
    assert numbers.delta(value) == text


def test_the_answer_uses_three_decimals() -> None:
    assert numbers.delta_short(-0.0024) == "−0.002"
    assert numbers.delta_short(-0.0004) == "0.000"


@pytest.mark.parametrize(
    ("value", "text"),
    [(41.83, "41.8"), (5.1249, "5.12"), (9.996, "10.0"), (101.4, "101"), (1234.0, "1,230"), (0.01234, "0.0123"),
     (0.0, "0"), (999.6, "1,000"), (math.nan, "nan")],
)  # fmt: skip
def test_latency_and_throughput_have_three_significant_digits(value: float, text: str) -> None:
    assert numbers.three_digits(value) == text


def test_ratios_have_two_decimals_and_a_multiplication_sign() -> None:
    assert numbers.ratio(2.306) == "2.31×"


@pytest.mark.parametrize(("value", "text"), [(9.112, "9.1"), (1.0, "1.0"), (0.976, "0.98"), (0.34, "0.34")])
def test_megabytes_have_one_decimal_from_one_up_and_two_below(value: float, text: str) -> None:
    assert numbers.megabytes(value) == text


@pytest.mark.parametrize(("share", "text"), [(0.001, "0.1 %"), (0.01, "1 %"), (0.0523, "5.2 %"), (0.52, "52 %")])
def test_percentages_have_a_space(share: float, text: str) -> None:
    assert numbers.percent(share) == text


def test_intervals_are_in_brackets_with_the_signs_of_their_kind() -> None:
    assert numbers.interval([-0.0059, 0.0011], 4, sign=True) == "[−0.0059, +0.0011]"
    assert numbers.interval(["2.26", 2.36], 2, sign=False) == "[2.26, 2.36]"


@pytest.mark.parametrize(
    ("value", "text"), [(0.6, "0.6 s"), (38.2, "38 s"), (2460, "41 min"), (4320, "1 h 12 min"), (math.inf, "inf")]
)
def test_durations_grow_coarser(value: float, text: str) -> None:
    assert numbers.seconds(value) == text


def test_times_are_read_from_iso_stamps_and_other_text_is_kept() -> None:
    assert numbers.took("2026-08-14T02:10:00+00:00", "2026-08-14T02:51:00+00:00") == "41 min"
    assert numbers.took("yesterday", "today") is None
    assert numbers.stamp("2026-08-14T04:10:00+02:00") == "2026-08-14 02:10 UTC"
    assert numbers.stamp("yesterday") == "yesterday"


@pytest.mark.parametrize(
    ("images", "text"), [(8163, "8,200"), (8200, "8,200"), (8201, "8,300"), (730, "730"), (731, "740"), (99, "99"),
                         (100, "100"), (7, "7"), (19999, "20,000")],
)  # fmt: skip
def test_images_to_decide_have_two_digits_and_are_never_rounded_down(images: int, text: str) -> None:
    assert numbers.about(images) == text


def test_small_counts_are_words() -> None:
    assert [numbers.count_word(n) for n in (0, 1, 3, 12, 13, 1200)] == ["no", "one", "three", "twelve", "13", "1,200"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.0"), (1.1e-16, "1.1e−16"), (-0.5, "−0.5"), (math.nan, "nan"), (-math.inf, "−inf")]
)
def test_differences_are_scientific_with_a_true_minus(value: float, text: str) -> None:
    assert numbers.scientific(value) == text


def test_hashes_keep_six_and_four_characters() -> None:
    assert numbers.short_hash("b1f07c" + "0" * 54 + "e93a") == "b1f07c…e93a"
    assert numbers.short_hash("short") == "short"


def test_lists_read_as_a_sentence() -> None:
    assert numbers.in_words(["a"]) == "a"
    assert numbers.in_words(["a", "b", "c"]) == "a, b and c"
    assert numbers.plural(1, "cell") == "1 cell"
    assert numbers.plural(1200, "image") == "1,200 images"
