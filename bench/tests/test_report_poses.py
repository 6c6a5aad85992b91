import io

import numpy as np
import pytest
from rich.console import Console

from bench.posing import judge_pose, measure
from bench.report.cells import read_run
from bench.report.html import render_html
from bench.report.poses import pose_tables_of
from bench.report.terminal import print_table
from bench.schema import to_json, validate
from bench.tests.sample_poses import with_attribute
from bench.tests.sample_suite import sample_suite
from bench.tests.test_pose_verdict import REFERENCE, SET, judged, measured, table_of

WORSE = judged(measured(SET, like=REFERENCE, degrees=20, depth_share=0.04, shift_px=3), REFERENCE)
BROKEN = judged(
    measure(REFERENCE.truth, with_attribute(table_of(SET), "depth_m", slice(None), np.nan), like=REFERENCE), REFERENCE
)


def with_poses(pose):
    suite = sample_suite()
    model = suite["cells"][0]["cell"]["model"]
    own = [c for c in suite["cells"] if c["cell"]["model"] == model and c["accuracy"]]
    reference = next(c for c in own if c["role"] == "reference")
    candidate = next(c for c in own if c["role"] == "candidate")
    reference["pose"] = to_json(judge_pose("fp32", REFERENCE, None, margins={}, resamples=100, seed=0))
    candidate["pose"] = to_json(pose)
    validate(suite, "suite_result", where="test")
    return suite


def printed(suite):
    text = io.StringIO()
    print_table(suite, Console(file=text, width=100))
    return text.getvalue()


def test_a_suite_without_poses_shows_nothing_of_them():
    assert pose_tables_of(read_run(sample_suite())) == []
    assert "Poses of" not in render_html(sample_suite())
    assert "Poses of" not in printed(sample_suite())


def test_the_page_shows_each_cell_with_differences_intervals_and_words():
    page = render_html(with_poses(WORSE))
    (table,) = pose_tables_of(read_run(with_poses(WORSE)))
    reference, candidate = table.rows
    assert (reference.word, candidate.word) == ("reference", "failed")
    assert reference.entries[0].change is None
    assert candidate.entries[0].word == "failed"
    assert candidate.entries[0].value.endswith("°")
    for words in (candidate.matched, candidate.entries[0].value, candidate.entries[0].change, "rotation within 10°"):
        assert words in page, words


def test_the_terminal_says_the_same_within_its_width():
    text = printed(with_poses(WORSE))
    assert "Poses of" in text
    assert "failed: 180 of 180 objects matched at IoU 0.5" in text
    assert all(len(line) <= 100 for line in text[text.index("Poses of") :].splitlines())


def test_the_terminal_spares_the_numbers_that_did_not_move():
    same = judged(measured(SET, like=REFERENCE, degrees=6, depth_share=0.04, shift_px=3), REFERENCE)
    text = printed(with_poses(same))
    told = text[text.index("Poses of") :].split("passed:")[1]
    assert "180 of 180 objects matched at IoU 0.5; 7 numbers within the margin" in " ".join(told.split())
    page = render_html(with_poses(same))
    assert page.count("Δ 0.00°") >= 2


@pytest.mark.parametrize("show", [render_html, printed])
def test_broken_poses_are_loud_and_infinite_errors_are_words(show):
    text = show(with_poses(BROKEN))
    assert "360 values not finite" in text
    assert "inf" in text
