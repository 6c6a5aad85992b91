"""The cell that faults are planted in: a model that makes mistakes, on images that are the same on every host."""

import numpy as np
import pytest

from bench.errors import Unsupported
from bench.goldens import committed_row
from bench.passes import prepare
from bench.runner_base import feed_key
from bench.scoring import from_predictions, match
from bench.testing import faults as faults
from bench.testing import proof as proof
from bench.types import Adapter


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return proof.proof_fixtures(tmp_path_factory.mktemp("proof"), 40)


def found_by(adapter, images):
    network, found = adapter.build(None), {}
    for sample in images.samples:
        feeds, meta = prepare(adapter, sample)
        outputs = network(feeds["images"])
        named = dict(zip([s.name for s in adapter.spec.outputs], outputs, strict=True))
        found[sample.image_id] = adapter.postprocess(named, meta)
    return found


@pytest.mark.parametrize("adapter", [proof.adapter, proof.pose_adapter])
def test_the_model_is_clearly_below_ap_1_so_that_a_leak_can_gain(adapter, images):
    assert isinstance(adapter, Adapter)
    matched = match(images, from_predictions(found_by(adapter, images), (1, 2, 3)), task=adapter.spec.task)
    assert 0.3 < matched.stats["AP"] < 0.7


def test_the_images_and_their_hashes_are_those_that_were_committed(images):
    hashes = {s.image_id: feed_key(prepare(proof.adapter, s)[0]) for s in images.samples}
    row = committed_row(proof.adapter.spec, images, hashes)
    assert row.passed is not False, row.explain
    assert row.total == 8, "the set itself is no longer the committed one"


def test_other_images_begin_where_asked(images, tmp_path):
    other = proof.proof_fixtures(tmp_path, 3, first=39)
    assert [s.image_id for s in other.samples] == [39, 40, 41]
    assert other.samples[0].path.read_bytes() == images.samples[38].path.read_bytes()


def test_keypoints_lie_in_their_boxes_in_pixels_of_the_image(images):
    for prediction in found_by(proof.pose_adapter, images).values():
        expected = proof.keypoints_of(prediction.boxes_xyxy)
        np.testing.assert_allclose(prediction.keypoints_xys[..., :2], expected, atol=0.01)
        np.testing.assert_array_equal(prediction.keypoints_xys[..., 2], np.repeat(prediction.scores[:, None], 4, 1))


def test_left_right_swapped_keypoints_leave_the_boxes_and_every_keypoint_but_one_side_alone():
    outputs = {"boxes": np.ones((1, 3, 4)), "keypoints": np.arange(36.0).reshape(1, 3, 4, 3)}
    mirrored = faults.mirrored_backend.plan.change(outputs)
    np.testing.assert_array_equal(mirrored["keypoints"], outputs["keypoints"][:, :, [1, 0, 3, 2]])
    assert mirrored["boxes"] is outputs["boxes"]


def test_a_half_pixel_moves_a_picture_by_half_a_pixel_and_nothing_else():
    image = np.zeros((60, 80, 3), np.uint8)
    image[30:] = 200
    moved, still = (proof.letterbox(image, shift_px=s).astype(int) for s in (0.5, 0.0))
    assert moved.sum(axis=0)[5, 0] - still.sum(axis=0)[5, 0] == 0
    rows = np.flatnonzero((moved != still).any(axis=(1, 2)))
    assert set(moved[rows[0], 5].tolist()) == {100}


def test_the_gain_changes_no_bit_in_fp32_and_overflows_in_fp16(images):
    honest, other = proof.adapter.build(None), faults.overflowing_adapter.build(None)
    feeds = prepare(proof.adapter, images.samples[0])[0]["images"]
    for ours, theirs in zip(honest(feeds), other(feeds), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with np.errstate(all="ignore"):
        assert not all(np.isfinite(v).all() for v in other(feeds.astype(np.float16)))
    assert all(np.isfinite(v).all() for v in honest(feeds.astype(np.float16)))


def test_the_proof_model_says_what_it_cannot_do(tmp_path):
    with pytest.raises(Unsupported, match="no ONNX export"):
        proof.adapter.export(tmp_path, tmp_path)
    with pytest.raises(Unsupported, match="nothing to train"):
        proof.adapter.train({}, tmp_path)
