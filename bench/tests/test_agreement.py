import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.agreement import LIMITS_DB, Ran, agree, decibels, sqnr_db

RNG = np.random.default_rng(0)
TRUTH = [{"scores": RNG.random((1, 4, 50)).astype(np.float32), "boxes": RNG.random((1, 4, 50)) * 300} for _ in range(3)]


def noisy(db, seed=1, only=None):
    """The truth with Gaussian noise of so many decibels below it."""
    rng = np.random.default_rng(seed)

    def change(name, value):
        if only is not None and name not in only:
            return value.copy()
        rms = np.sqrt(np.mean(value**2)) * 10 ** (-db / 20)
        return value + rng.normal(0, rms, value.shape)

    return [{name: change(name, value) for name, value in image.items()} for image in TRUTH]


def ran(**runtimes):
    return {f"cell-{name}": Ran(name=name, outputs=outputs) for name, outputs in runtimes.items()}


def verdicts(own, runtimes, precision="int8"):
    return {cell: found.verdict for cell, found in agree(own, runtimes, precision=precision, told="x").items()}


@pytest.mark.parametrize("db", [3.0, 20.0, 45.0])
def test_decibels_are_those_that_were_added(db):
    values = [image["boxes"] for image in TRUTH]
    assert sqnr_db(values, [image["boxes"] for image in noisy(db)]) == pytest.approx(db, abs=0.5)


def test_equal_is_infinite_and_anything_broken_is_not_a_number():
    values = [image["boxes"] for image in TRUTH]
    assert sqnr_db(values, [v.copy() for v in values]) == math.inf
    assert math.isnan(sqnr_db(values, values[:2]))
    assert math.isnan(sqnr_db(values, [v[..., :-1] for v in values]))
    assert math.isnan(sqnr_db([], []))
    for bad in (np.nan, np.inf):
        broken = [v.copy() for v in values]
        broken[1][0, 0, 0] = bad
        assert math.isnan(sqnr_db(values, broken))
        assert math.isnan(sqnr_db(broken, broken)), "two that are equally broken do not agree"


def test_something_against_silence_has_nothing_in_common():
    assert sqnr_db([np.zeros(4)], [np.ones(4)]) == -math.inf


@given(st.floats(0.01, 100.0), st.integers(0, 2**32 - 1))
def test_decibels_do_not_depend_on_the_unit(scale, seed):
    rng = np.random.default_rng(seed)
    want, got = rng.normal(size=20), rng.normal(size=20)
    assert sqnr_db([want * scale], [got * scale]) == pytest.approx(sqnr_db([want], [got]), abs=1e-6)


def test_healthy_runtimes_agree():
    found = agree(TRUTH, ran(onnxrt=noisy(40, 1), openvino=noisy(38, 2)), precision="int8", told="x")
    assert {r.verdict for r in found.values()} == {"agrees"}
    assert found["cell-onnxrt"].sentence.startswith("onnxrt agrees with the file’s own arithmetic (at least 40 dB)")


def test_the_runtime_that_is_apart_is_named_and_the_other_is_not_blamed():
    found = agree(TRUTH, ran(onnxrt=noisy(41, 1), openvino=noisy(2, 2)), precision="int8", told="x")
    assert found["cell-onnxrt"].verdict == "agrees"
    wrong = found["cell-openvino"]
    assert wrong.verdict == "apart"
    assert wrong.sentence.startswith("openvino disagrees with onnxrt and with the file’s own arithmetic (")
    assert "; onnxrt 41 dB): the runtime is wrong, not the file." in wrong.sentence


def test_one_bad_output_is_enough_and_is_named():
    found = agree(TRUTH, ran(onnxrt=noisy(41), openvino=noisy(1, 2, only=("scores",))), precision="int8", told="x")
    assert found["cell-openvino"].verdict == "apart"
    assert " dB on scores; " in found["cell-openvino"].sentence


def test_two_that_agree_with_each_other_and_not_with_the_file_are_undecided():
    same = noisy(1, 7)
    found = agree(TRUTH, ran(onnxrt=same, openvino=[dict(i) for i in same]), precision="int8", told="x")
    assert {r.verdict for r in found.values()} == {"undecided"}
    assert "nothing tells who is wrong" in found["cell-onnxrt"].sentence


def test_when_nobody_computes_what_the_file_says_nobody_is_called_wrong():
    assert verdicts(TRUTH, ran(a=noisy(1, 1), b=noisy(1, 2))) == {"cell-a": "undecided", "cell-b": "undecided"}


def test_a_runtime_alone_is_never_called_wrong():
    found = agree(TRUTH, ran(openvino=noisy(1)), precision="int8", told="x")["cell-openvino"]
    assert found.verdict == "undecided"
    assert "no other runtime ran this file" in found.sentence


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_loses(bad):
    broken = noisy(40)
    broken[2]["scores"][0, 0, 3] = bad
    found = agree(TRUTH, ran(onnxrt=noisy(40, 3), openvino=broken), precision="int8", told="x")
    assert found["cell-openvino"].verdict == "apart"
    assert "not finite on scores" in found["cell-openvino"].sentence
    assert found["cell-onnxrt"].verdict == "agrees"


def test_a_missing_output_loses():
    without = [{"boxes": image["boxes"]} for image in noisy(40)]
    assert verdicts(TRUTH, ran(onnxrt=noisy(40, 3), openvino=without))["cell-openvino"] == "apart"


def test_without_the_files_own_arithmetic_one_against_two_is_apart_and_one_against_one_is_not():
    three = ran(a=noisy(40, 1), b=noisy(40, 2), c=noisy(1, 3))
    assert verdicts(None, three) == {"cell-a": "undecided", "cell-b": "undecided", "cell-c": "apart"}
    two = agree(None, ran(a=noisy(40, 1), c=noisy(1, 3)), precision="int8", told="the CPU has no bf16")
    assert {r.verdict for r in two.values()} == {"undecided"}
    assert two["cell-a"].own == "the CPU has no bf16"
    assert two["cell-a"].worst_db is None


def test_an_output_that_differs_from_run_to_run_is_not_held_against_a_runtime():
    shaky = {"scores": 10.0, "boxes": 1e6}
    found = agree(
        TRUTH, {"c": Ran(name="c", outputs=noisy(1), repeat_noise=shaky), **ran(d=noisy(40))}, precision="int8", told=""
    )
    assert found["c"].verdict == "undecided"
    assert "differ from run to run" in found["c"].sentence
    assert found["cell-d"].verdict == "agrees"


def test_noise_that_is_not_finite_is_no_excuse():
    apart = {"c": Ran(name="c", outputs=noisy(1), repeat_noise={"scores": math.nan, "boxes": math.nan})}
    assert verdicts(TRUTH, {**apart, **ran(d=noisy(40))})["c"] == "apart"


def test_lower_precisions_may_differ_more():
    limits = [LIMITS_DB[p] for p in ("fp32", "tf32", "fp16", "bf16", "int8")]
    assert limits == sorted(limits, reverse=True)
    two = ran(a=noisy(60, 1), b=noisy(8, 2))
    assert verdicts(TRUTH, two, "int8")["cell-b"] == "agrees"
    assert verdicts(TRUTH, two, "fp32")["cell-b"] == "apart"


def test_every_pair_and_output_has_a_row():
    rows = agree(TRUTH, ran(a=noisy(40, 1), b=noisy(40, 2)), precision="int8", told="x")["cell-a"].rows
    assert [(r.against, r.output) for r in rows] == [
        ("", "boxes"), ("", "scores"), ("cell-b", "boxes"), ("cell-b", "scores")
    ]  # fmt: skip


def test_decibels_in_words():
    assert [decibels(v) for v in (2.13, 41.4, -1.6, -0.01, math.inf, -math.inf, math.nan)] == [
        "2.1 dB", "41 dB", "−1.6 dB", "0.0 dB", "equal", "nothing in common", "not finite"
    ]  # fmt: skip
