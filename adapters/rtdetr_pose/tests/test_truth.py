"""The truth is refused when it is wrong, and follows the image wherever augmentation takes it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from adapters._shared.training.batch import Truth
from adapters.rtdetr_pose.config import LossConfig, network_config
from adapters.rtdetr_pose.denoise import Denoising
from adapters.rtdetr_pose.model import RtDetrPose
from adapters.rtdetr_pose.names import KEYPOINT_SWAP
from adapters.rtdetr_pose.truth import check_truth, known_of, placed_points, unplaced_points
from bench.errors import InputError
from fixtures.shapes.figure import KEYPOINT_NAMES

ONE = torch.zeros(1, dtype=torch.int64)


def truth_of(box=(10.0, 10, 20, 30), label=0, **attributes):
    return Truth(torch.tensor([[box]]), torch.tensor([[label]]), {k: v[None, None] for k, v in attributes.items()})


def placed(rotation, linear, points, shift=(3.0, -7.0)):
    """Attributes of one object after its image went through a map."""
    placement = torch.cat((torch.as_tensor(linear).float(), torch.tensor(shift)[:, None]), 1)
    xyv = torch.cat((torch.as_tensor(points).float(), torch.full((len(points), 1), 2.0)), 1)
    truth = truth_of(rotation=torch.as_tensor(rotation).float(), keypoints=xyv, placement=placement)
    check_truth(truth, 1)
    return known_of(truth, ONE, ONE, None)


@given(
    seed=st.integers(0, 10_000),
    zoom=st.floats(0.3, 3),
    degrees=st.floats(-180, 180),
    mirrored=st.booleans(),
)
@settings(deadline=None)
def test_a_moved_flat_object_is_shown_by_its_moved_rotation(seed, zoom, degrees, mirrored):
    """Points of the object's plane, projected by the new rotation, land where the map takes their old projections."""
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(rng=rng).as_matrix()
    flat = np.concatenate((rng.normal(size=(5, 2)), np.zeros((5, 1))), 1)
    projected = (flat @ rotation.T)[:, :2]  # weak perspective: x and y of the camera
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    linear = zoom * np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    known = placed(rotation, linear, projected)
    moved = known.values["rotation"][0].numpy()
    np.testing.assert_allclose(moved @ moved.T, np.eye(3), atol=1e-5)
    assert np.linalg.det(moved) == pytest.approx(1, abs=1e-5)
    expected = known.values["keypoints"][0, :, :2].numpy()
    np.testing.assert_allclose(zoom * (flat @ moved.T)[:, :2] + [3, -7], expected, atol=1e-4)


@pytest.mark.parametrize(("mirrored", "both", "known"), [(0, 0, 1), (0, 1, 1), (1, 0, 0), (1, 1, 1)])
def test_the_rotation_in_a_mirror_is_known_only_of_classes_that_show_both_sides(mirrored, both, known):
    linear = torch.diag(torch.tensor([-1.0 if mirrored else 1.0, 1.0]))
    placement = torch.cat((linear, torch.zeros(2, 1)), 1)
    truth = truth_of(rotation=torch.eye(3), depth_m=torch.tensor(2.0), placement=placement)
    found = known_of(truth, ONE, ONE, None, [bool(both)] * 3)
    assert found.given["rotation"].tolist() == [bool(known)]
    assert found.given["depth_m"].tolist() == [True]
    assert known_of(truth, ONE, ONE, None).given["rotation"].tolist() == [True]


@given(seed=st.integers(0, 10_000))
@settings(deadline=None)
def test_points_come_back_from_the_input_to_the_file(seed):
    generator = torch.Generator().manual_seed(seed)
    placement = torch.randn(4, 2, 3, generator=generator) + torch.tensor([[3.0, 0, 0], [0, 3, 0]])
    points = torch.rand(4, 6, 2, generator=generator) * 100
    back = unplaced_points(placed_points(points, placement), placement)
    torch.testing.assert_close(back, points, atol=1e-2, rtol=1e-3)


def test_left_and_right_keypoints_change_places_in_a_mirror_only():
    xyv = torch.arange(17.0)[:, None].expand(17, 3) + 1
    for sign, expected in ((1.0, list(range(17))), (-1.0, list(KEYPOINT_SWAP))):
        placement = torch.tensor([[sign, 0, 0], [0, 1, 0]])
        known = known_of(truth_of(keypoints=xyv, placement=placement), ONE, ONE, KEYPOINT_SWAP)
        assert (known.values["keypoints"][0, :, 1] - 1).tolist() == expected


def test_the_swap_exchanges_the_names_of_left_and_right():
    for name, other in zip(KEYPOINT_NAMES, KEYPOINT_SWAP, strict=True):
        mirrored = {"L": "R", "R": "L"}.get(name[0]) if name[1] == "_" else None
        assert KEYPOINT_NAMES[other] == (f"{mirrored}{name[1:]}" if mirrored else name)


def test_a_row_of_nan_is_not_known():
    known = known_of(truth_of(depth_m=torch.tensor(math.nan), rotation=torch.eye(3)), ONE, ONE, None)
    assert not known.given["depth_m"].any()
    assert known.given["rotation"].all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 3}, "label 3 with 3 classes"),
        ({"box": (10.0, 10, 10, 20)}, "corners must be finite, x1 < x2"),
        ({"box": (10.0, 10, math.nan, 20)}, "corners must be finite"),
        ({"depth_m": torch.tensor(-1.0)}, "depth_m must be above 0"),
        ({"depth_m": torch.tensor(math.inf)}, "depth_m holds a number that is not finite"),
        ({"rotation": torch.tensor([[math.nan, 0, 0], [0, 1, 0], [0, 0, 1]])}, "only a whole row of NaN"),
        ({"rotation": torch.eye(2)}, r"rotation must be \(1, 1, 3, 3\), got \(1, 1, 2, 2\)"),
        ({"placement": torch.full((2, 3), math.nan)}, "placement is not known for 1 objects"),
    ],
)
def test_a_wrong_truth_is_refused_with_what_is_wrong(change, message):
    with pytest.raises(InputError, match=message):
        check_truth(truth_of(**change), 3)


def test_what_is_padded_is_not_looked_at():
    truth = truth_of(box=(0.0, 0, 0, 0), label=-1, depth_m=torch.tensor(0.0))
    check_truth(truth, 3)


@pytest.fixture
def noisy():
    torch.manual_seed(0)
    truth = Truth(
        torch.tensor([[[10.0, 20, 50, 60], [60, 10, 90, 30]], [[0.0, 0, 100, 100], [0, 0, 0, 0]]]),
        torch.tensor([[2, 0], [1, -1]]),
    )
    config = network_config("tiny", classes=3)
    return truth, config, Denoising(config)


def test_noised_queries_lie_near_their_objects_and_know_which_to_restore(noisy):
    truth, _, make = noisy
    noised = make(truth, (100, 100), LossConfig(recipe="own", denoising_groups=3))
    assert noised.queries.shape == (2, 6, 96)
    pairs = list(zip(noised.matching.image.tolist(), noised.matching.query.tolist(), strict=True))
    assert pairs == [(0, q) for q in range(6)] + [(1, 0), (1, 2), (1, 4)]
    assert noised.matching.object_.tolist() == [0, 1] * 3 + [0] * 3
    boxes = noised.anchors.sigmoid()[0, ::2]
    assert (boxes[:, :2] - torch.tensor([0.3, 0.4])).abs().max() <= 0.4 * 0.2 + 1e-6
    assert (boxes[:, 2:] / 0.4 - 1).abs().max() <= 0.4 + 1e-6
    assert boxes.std(0).min() > 0
    assert torch.isfinite(noised.anchors).all()


def test_the_networks_own_queries_never_see_the_truth(noisy):
    truth, config, _ = noisy
    network = RtDetrPose(config, denoising=True).eval()
    loss = LossConfig(recipe="own", denoising_groups=2)
    images = torch.rand(2, 3, 64, 64)
    noised = network.denoise(truth, (64, 64), loss)
    pyramid = network.pyramid(images)
    proposals = network.propose(pyramid)
    plain, helped = network.layers(pyramid, proposals), network.layers(pyramid, proposals, noised)
    for ours, theirs in zip(plain, helped, strict=True):
        own = theirs.queries(0, config.queries)
        for a, b in zip(ours.named().values(), own.named().values(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_one_group_does_not_see_another(noisy):
    truth, config, make = noisy
    noised = make(truth, (100, 100), LossConfig(recipe="own", denoising_groups=2))
    inner = noised.blocked[config.queries :, config.queries :]
    assert inner[:2, 2:].all()
    assert not inner[:2, :2].any()
    assert noised.blocked[: config.queries, config.queries :].all()
    assert not noised.blocked[config.queries :, : config.queries].any()
