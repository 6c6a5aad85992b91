from dataclasses import replace

import numpy as np
import pytest

from bench import checkpoints
from bench.errors import ContractError
from bench.passes import Pass
from bench.types import Cell, Prediction

CELL = Cell(model="m", backend="b", device="cpu", precision="fp32", fixtures="f")
IDENTITY = {"artifact": "a" * 64, "threads": 1}


def make_pass(keypoints=False, poses=False):
    def prediction(count):
        boxes = np.arange(count * 4, dtype=np.float32).reshape(count, 4)
        boxes[:1] = np.nan
        points = np.ones((count, 17, 3), np.float32) if keypoints else None
        attributes = {"rotation": np.full((count, 3, 3), np.nan), "depth_m": np.arange(count) / 7} if poses else None
        return Prediction(boxes, np.linspace(1, 0, count, dtype=np.float32), np.arange(count), points, attributes)

    return Pass(
        predictions={7: prediction(3), 2: prediction(0), 9: prediction(2)},
        feed_hashes={7: "x", 2: "y", 9: "z"},
        pre_ms=[1.0],
        run_ms=[2.0],
        post_ms=[0.5],
        wall_s=4.0,
        kept=({"out:1": np.arange(3.0)}, {"out:1": np.full(3, np.nan)}),
        repeat_noise={"out:1": np.nan, "other": 0.5},
    )


def saved(folder, **kinds):
    done = make_pass(**kinds)
    raw = [{"out:1": np.ones((1, 2))}, {"out:1": np.full((1, 2), np.nan)}]
    checkpoints.save(folder, CELL, IDENTITY, {"peak_rss_mb": 3.0}, done, raw)
    return done, raw


@pytest.mark.parametrize("keypoints", [False, True])
def test_a_checkpoint_gives_everything_back_nan_and_empty_images_included(tmp_path, keypoints):
    done, raw = saved(tmp_path, keypoints=keypoints)
    facts, found, found_raw = checkpoints.restore(tmp_path, CELL, IDENTITY)
    assert facts == {"peak_rss_mb": 3.0}
    assert (found.feed_hashes, found.wall_s, found.run_ms) == (done.feed_hashes, 4.0, [2.0])
    for image, expected in done.predictions.items():
        for field in ("boxes_xyxy", "scores", "labels", "keypoints_xys"):
            np.testing.assert_array_equal(getattr(found.predictions[image], field), getattr(expected, field))
    assert np.isnan(found.repeat_noise["out:1"])
    assert found.repeat_noise["other"] == 0.5
    for got, expected in zip([*found.kept, *found_raw], [*done.kept, *raw], strict=True):
        np.testing.assert_array_equal(got["out:1"], expected["out:1"])


def test_poses_come_back_so_that_a_resumed_cell_keeps_them(tmp_path):
    done, _ = saved(tmp_path, poses=True)
    done.predictions[2] = replace(done.predictions[2], attributes=None)  # nothing was found there
    checkpoints.save(tmp_path, CELL, IDENTITY, {}, done, [])
    _, found, _ = checkpoints.restore(tmp_path, CELL, IDENTITY)
    for image, expected in done.predictions.items():
        for name, column in (expected.attributes or {}).items():
            np.testing.assert_array_equal(found.predictions[image].attributes[name], column)
    saved(tmp_path)
    assert checkpoints.restore(tmp_path, CELL, IDENTITY)[1].predictions[7].attributes is None


def test_an_attribute_in_some_of_the_images_cannot_be_kept(tmp_path):
    done = make_pass(poses=True)
    done.predictions[9] = replace(done.predictions[9], attributes={"depth_m": np.zeros(2)})
    with pytest.raises(ContractError, match="'rotation' is given for 1 of 2 images"):
        checkpoints.save(tmp_path, CELL, IDENTITY, {}, done, [])


def test_another_artefact_or_setting_is_named_and_not_taken(tmp_path):
    saved(tmp_path)
    assert checkpoints.restore(tmp_path, CELL, {**IDENTITY, "threads": 2}) == "it was measured with another threads"


def test_an_unfinished_cell_has_nothing_to_go_on_from(tmp_path):
    assert checkpoints.restore(tmp_path, CELL, IDENTITY) == "it was not finished"


@pytest.mark.parametrize(
    ("suffix", "content"),
    [(".npz", b"PK\x03\x04 cut"), (".npz", b""), (".json", b"{"), (".json", b"[]"), (".json", b'{"format": "other"}')],
)
def test_a_damaged_checkpoint_is_said_and_not_taken(tmp_path, suffix, content):
    saved(tmp_path)
    (tmp_path / "cells" / f"{CELL.id}{suffix}").write_bytes(content)
    assert "checkpoint" in checkpoints.restore(tmp_path, CELL, IDENTITY)
