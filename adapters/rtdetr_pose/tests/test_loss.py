"""Each part of the loss is what was computed by hand, and nothing broken passes through it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from adapters._shared.training.batch import Truth
from adapters.rtdetr_pose.config import LossConfig, loss_config, network_config
from adapters.rtdetr_pose.heads import Outputs
from adapters.rtdetr_pose.loss import PoseLoss, Raw, class_loss
from adapters.rtdetr_pose.matcher import Matching
from adapters.rtdetr_pose.model import RtDetrPose
from bench.errors import ContractError, InputError, UsageError

SIDE = 100
CLASSES = 3
ORIGINAL, DEFAULT = loss_config("original"), loss_config("default")
BOXES = [[10.0, 20, 50, 60], [60, 10, 90, 30]]
SHARES = [[0.3, 0.4, 0.4, 0.4], [0.75, 0.2, 0.3, 0.2]]


def truth_of(**attributes):
    """One image with two objects of classes 2 and 0, and a padded row."""
    boxes = torch.tensor([[*BOXES, [0.0, 0, 0, 0]]])
    return Truth(boxes, torch.tensor([[2, 0, -1]]), attributes)


def outputs_of(queries=5, keypoints=0, sharpness=30.0, **changes):
    """Queries 3 and 1 predict the two objects perfectly, the others background; identity rotations, depth 1 m."""
    logits = torch.zeros(1, queries, CLASSES + 1)
    logits[..., -1] = sharpness
    bbox = torch.zeros(1, queries, 4)
    for query, label, share in ((3, 2, SHARES[0]), (1, 0, SHARES[1])):
        logits[0, query, -1], logits[0, query, label] = 0, sharpness
        bbox[0, query] = torch.tensor(share).logit()
    rot6d = torch.zeros(1, queries, 6)
    rot6d[..., 0] = rot6d[..., 4] = 1
    values = {
        "logits": logits,
        "bbox": bbox,
        "log_z": torch.zeros(1, queries, 1),
        "rot6d": rot6d,
        "offsets": torch.zeros(1, queries, 2),
        "k_delta": torch.zeros(1, 4),
    }
    if keypoints:
        values["keypoints"] = torch.full((1, queries, 2 * keypoints), 0.5)
    return Outputs(**(values | changes))


def judge(outputs, truth, config, **options):
    layers = outputs if isinstance(outputs, list) else [outputs]
    raw = Raw(layers=layers, queries=layers[0].logits.shape[1], noised=None, image_hw=(SIDE, SIDE))
    total, parts = PoseLoss(config, **options).judge(raw, truth)
    return float(total), {name: float(value) for name, value in parts.items()}


def full_truth():
    """Every attribute, agreeing with ``outputs_of`` for a camera in the middle."""
    centres = torch.tensor([[[30.0, 40], [75, 20], [0, 0]]])
    return truth_of(
        rotation=torch.eye(3).expand(1, 3, 3, 3).clone(),
        depth_m=torch.ones(1, 3),
        center_px=centres,
        intrinsics=torch.tensor([120.0, 110, 50, 50]).expand(1, 3, 4).clone(),
        keypoints=torch.tensor([50.0, 50, 2]).expand(1, 3, 2, 3).clone(),
    )


@pytest.mark.parametrize("config", [ORIGINAL, DEFAULT])
def test_a_perfect_prediction_costs_nothing_in_every_part(config):
    total, parts = judge(outputs_of(keypoints=2), full_truth(), config)
    assert total == pytest.approx(0, abs=1e-5)
    wanted = {"classes", "box", "log_z", "rotation", "offsets", "k_delta", "translation"}
    assert set(parts) == wanted | ({"giou", "keypoints"} if config is DEFAULT else set())


def test_the_original_recipe_weighs_the_parts_as_upstream_does():
    values = {name: getattr(ORIGINAL, name) for name in LossConfig.__slots__}
    assert values == {
        "recipe": "original", "match_class": 1.0, "match_box": 5.0, "match_giou": 0.0, "classes": 1.0,
        "background": 1.0, "focal_gamma": 0.0, "box": 1.0, "giou": 0.0, "log_z": 1.0, "rotation": 1.0, "offsets": 1.0,
        "k_delta": 1.0, "translation": 0.1, "translation_relative": False, "keypoints": 0.0, "auxiliary": 0.0,
        "soft_classes": False, "proposals": 1.0, "proposals_top_k": 10, "decoder_gradient": 1.0,
        "denoising_groups": 0, "denoising_box": 0.4, "denoising_label": 0.2,
    }  # fmt: skip


def test_the_box_loss_is_the_l1_sum_over_four_and_the_mean_over_matches():
    bbox = outputs_of().bbox.clone()
    bbox[0, 3] = torch.tensor([0.35, 0.4, 0.4, 0.5]).logit()
    _, parts = judge(outputs_of(bbox=bbox), truth_of(), ORIGINAL)
    assert parts["box"] == pytest.approx((0.05 + 0.1) / 2, abs=1e-5)
    _, parts = judge(outputs_of(bbox=bbox), truth_of(), DEFAULT)
    assert parts["box"] == pytest.approx(5 * (0.05 + 0.1) / 2, abs=1e-5)
    # 0.4 x 0.4 in a hull of 0.4 x 0.45 shifted: computed by hand
    inter, union, hull = 0.35 * 0.4, 0.16 + 0.2 - 0.35 * 0.4, 0.45 * 0.5
    assert parts["giou"] == pytest.approx(2 * (1 - (inter / union - (hull - union) / hull)) / 2, abs=1e-5)


def test_the_class_loss_is_the_cross_entropy_of_all_queries():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    matching = Matching(image=torch.tensor([0, 1]), query=torch.tensor([2, 0]), object_=torch.tensor([0, 0]))
    labels = torch.tensor([1, 0])
    target = np.full((2, 4), 2)
    target[0, 2], target[1, 0] = 1, 0
    p = np.exp(logits.numpy())
    p = np.take_along_axis(p / p.sum(-1, keepdims=True), target[..., None], -1)[..., 0]
    assert float(class_loss(logits, matching, labels, 1.0, 0.0)) == pytest.approx(-np.log(p).mean())
    weight = np.where(target == 2, 0.1, 1)
    expected = -(weight * np.log(p)).sum() / weight.sum()
    assert float(class_loss(logits, matching, labels, 0.1, 0.0)) == pytest.approx(expected)
    expected = -(weight * (1 - p) ** 2 * np.log(p)).sum() / weight.sum()
    assert float(class_loss(logits, matching, labels, 0.1, 2.0)) == pytest.approx(expected)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: class_loss(x, matching, labels, 0.1, 2.0), (logits,))


def test_background_drowns_the_objects_only_in_the_original_recipe():
    logits = outputs_of(queries=100).logits.clone()
    logits[0, 3] = torch.tensor([0.0, 0, 0, 30])  # one object is missed
    _, original = judge(outputs_of(queries=100, logits=logits), truth_of(), ORIGINAL)
    _, improved = judge(outputs_of(queries=100, logits=logits), truth_of(), DEFAULT)
    assert original["classes"] == pytest.approx(30 / 100, rel=1e-3)
    assert improved["classes"] == pytest.approx(30 / (2 + 98 * 0.1), rel=1e-3)


def test_depth_is_compared_in_logarithms():
    truth = truth_of(depth_m=torch.tensor([[math.e, math.e**-3, 0]]))
    _, parts = judge(outputs_of(), truth, ORIGINAL)
    assert parts["log_z"] == pytest.approx((1 + 3) / 2, abs=1e-5)


def test_a_predicted_width_turns_an_error_into_a_likelihood():
    truth = truth_of(depth_m=torch.tensor([[math.e, math.e**-3, 0]]))
    widths = torch.full((1, 5, 1), math.log(2))
    _, parts = judge(outputs_of(log_sigma_z=widths, log_sigma_rot=widths), truth, ORIGINAL)
    assert parts["log_z"] == pytest.approx((1 + 3) / 2 / 2 + math.log(2), abs=1e-5)


def test_rotations_are_compared_up_to_the_symmetry_of_the_class():
    turn = Rotation.from_rotvec([[0, 0, 90], [0, 0, 30]], degrees=True).as_matrix()
    rotation = torch.from_numpy(np.concatenate((turn, np.zeros((1, 3, 3))))).float()[None]
    _, parts = judge(outputs_of(), truth_of(rotation=rotation), ORIGINAL)
    assert parts["rotation"] == pytest.approx(math.radians((90 + 30) / 2), abs=1e-5)
    _, parts = judge(outputs_of(), truth_of(rotation=rotation), ORIGINAL, symmetries=(0, 1, 4))
    assert parts["rotation"] == pytest.approx(0, abs=1e-5)
    _, parts = judge(outputs_of(), truth_of(rotation=rotation), ORIGINAL, symmetries=(6, 1, 5))
    assert parts["rotation"] == pytest.approx(math.radians((18 + 30) / 2), abs=1e-5)


def test_offsets_are_in_box_sizes():
    truth = truth_of(center_px=torch.tensor([[[30.0 + 8, 40], [75, 20 - 6], [0, 0]]]))
    _, parts = judge(outputs_of(), truth, ORIGINAL)
    assert parts["offsets"] == pytest.approx((8 / 40 + 6 / 20) / 2, abs=1e-5)


def test_the_camera_correction_has_the_truth_zero_unless_another_is_given():
    delta = torch.tensor([[0.1, -0.2, 0.05, 0]])
    camera = torch.tensor([120.0, 110, 50, 50]).expand(1, 3, 4)
    _, parts = judge(outputs_of(k_delta=delta), truth_of(), ORIGINAL)
    assert "k_delta" not in parts
    _, parts = judge(outputs_of(k_delta=delta), truth_of(intrinsics=camera), ORIGINAL)
    assert parts["k_delta"] == pytest.approx(0.35, abs=1e-6)
    _, parts = judge(outputs_of(k_delta=delta), truth_of(k_delta=delta[:, None].expand(1, 3, 4)), ORIGINAL)
    assert parts["k_delta"] == pytest.approx(0, abs=1e-6)


def test_the_translation_follows_from_centre_depth_and_camera():
    truth = full_truth()
    truth.attributes["depth_m"][0] = torch.tensor([2.0, 1, 0])
    _, parts = judge(outputs_of(), truth, ORIGINAL)
    # the first object is seen at 1 m instead of 2: twice too near along its whole ray
    ray = abs(30 - 50) / 120 + abs(40 - 50) / 110 + 1
    assert parts["translation"] == pytest.approx(0.1 * ray / 2, abs=1e-5)
    _, parts = judge(outputs_of(), truth, DEFAULT)
    assert parts["translation"] == pytest.approx(DEFAULT.translation * ray / 2 / 2, abs=1e-6)


def test_keypoints_are_in_roots_of_the_box_area_and_only_known_ones_count():
    xyv = torch.zeros(1, 3, 2, 3)
    xyv[0, 0] = torch.tensor([[54.0, 50, 2], [90, 90, 0]])
    xyv[0, 1] = torch.tensor([[50.0, 53, 1], [50, 50, 1]])
    _, parts = judge(outputs_of(keypoints=2), truth_of(keypoints=xyv), DEFAULT)
    assert parts["keypoints"] == pytest.approx(DEFAULT.keypoints * (4 / 40 + 3 / math.sqrt(600) + 0) / 3, abs=1e-6)


def test_an_attribute_that_is_not_known_of_an_object_does_not_count():
    truth = truth_of(depth_m=torch.tensor([[math.e, math.nan, 0]]))
    _, parts = judge(outputs_of(), truth, ORIGINAL)
    assert parts["log_z"] == pytest.approx(1, abs=1e-5)


def test_earlier_layers_are_judged_by_the_default_recipe_only():
    bad, better = outputs_of(sharpness=0.0), outputs_of(sharpness=2.0)
    for config, times in ((ORIGINAL, 0), (DEFAULT, 2)):
        (alone, _), (last, _) = judge(bad, truth_of(), config), judge(better, truth_of(), config)
        assert 0.1 < last < 0.5 * alone
        total, parts = judge([bad, bad, better], truth_of(), config)
        assert total == pytest.approx(last + times * alone, abs=1e-4)
        assert parts.get("auxiliary", 0) == pytest.approx(times * alone, abs=1e-4)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_order_of_objects_and_of_queries_and_padding_change_nothing(seed):
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    queries, most = 6, 4
    low = torch.rand(2, most, 2, generator=generator) * 50
    boxes = torch.cat((low, low + 5 + torch.rand(2, most, 2, generator=generator) * 40), -1)
    labels = torch.randint(-1, CLASSES, (2, most), generator=generator)
    attributes = {
        "rotation": torch.from_numpy(Rotation.random(2 * most, rng).as_matrix()).float().view(2, most, 3, 3),
        "depth_m": torch.rand(2, most, generator=generator) + 0.5,
        "center_px": torch.rand(2, most, 2, generator=generator) * 100,
    }
    shapes = {"logits": CLASSES + 1, "bbox": 4, "log_z": 1, "rot6d": 6, "offsets": 2}
    values = {name: torch.randn(2, queries, width, generator=generator) for name, width in shapes.items()}
    values["k_delta"] = torch.zeros(2, 4)
    total, _ = judge(Outputs(**values), Truth(boxes, labels, attributes), DEFAULT, symmetries=(0, 1, 4))

    order = torch.from_numpy(rng.permutation(most))
    padded = [torch.cat((x[:, order], torch.zeros_like(x[:, :1])), 1) for x in (boxes, *attributes.values())]
    marks = torch.cat((labels[:, order], torch.full((2, 1), -1)), 1)
    moved = Truth(padded[0], marks, dict(zip(attributes, padded[1:], strict=True)))
    rows = torch.from_numpy(rng.permutation(queries))
    shuffled = {name: value if name == "k_delta" else value[:, rows] for name, value in values.items()}
    again, _ = judge(Outputs(**shuffled), moved, DEFAULT, symmetries=(0, 1, 4))
    assert again == pytest.approx(total, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("most", [0, 2])
@pytest.mark.parametrize("config", [ORIGINAL, DEFAULT])
def test_images_without_objects_teach_background_and_have_a_finite_gradient(most, config):
    network = RtDetrPose(network_config("tiny", classes=CLASSES), denoising=True).train()
    attributes = {"rotation": torch.zeros(2, most, 3, 3), "depth_m": torch.zeros(2, most)}
    truth = Truth(torch.zeros(2, most, 4), torch.full((2, most), -1), attributes)
    total, parts = PoseLoss(config)(network, torch.rand(2, 3, 64, 64), truth)
    total.backward()
    assert parts["classes"] > 0
    assert parts["box"] == parts["rotation"] == 0
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("config", [ORIGINAL, DEFAULT])
def test_every_parameter_of_the_network_learns_something(config):
    torch.manual_seed(0)
    sigma = replace(network_config("tiny", classes=CLASSES), log_sigma=True)
    network = RtDetrPose(sigma, denoising=bool(config.denoising_groups)).train()
    truth = full_truth()
    truth.attributes["keypoints"] = torch.tensor([50.0, 50, 2]).expand(1, 3, 17, 3)
    truth.attributes["rotation"][0] = torch.from_numpy(Rotation.random(3, np.random.default_rng(0)).as_matrix())
    total, _ = PoseLoss(replace(config, keypoints=1.0))(network, torch.rand(1, 3, 96, 96), truth)
    total.backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_a_step_on_the_same_images_again_and_again_finds_the_objects():
    torch.manual_seed(0)
    network = RtDetrPose(network_config("tiny", classes=CLASSES), denoising=True).train()
    images = torch.rand(2, 3, 64, 64)
    boxes = torch.tensor([[[5.0, 5, 30, 30], [35, 30, 60, 60]], [[20, 10, 50, 40], [0, 0, 0, 0]]])
    truth = Truth(boxes, torch.tensor([[0, 1], [2, -1]]), {"depth_m": torch.tensor([[1.0, 2], [3, 0]])})
    optimizer, loss = torch.optim.AdamW(network.parameters(), 1e-3), PoseLoss(DEFAULT)
    history = []
    for _ in range(40):
        optimizer.zero_grad()
        total, _ = loss(network, images, truth)
        total.backward()
        optimizer.step()
        history.append(float(total.detach()))
    assert history[-1] < 0.3 * history[0]


@pytest.mark.parametrize("name", ["logits", "bbox", "log_z", "rot6d", "offsets", "k_delta"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_output_that_is_not_finite_is_an_error_that_names_it(name, value):
    good = outputs_of()
    broken = good.named()[name].clone()
    broken.view(-1)[0] = value
    layers = [replace(good, **{name: broken}), good]
    with pytest.raises(ContractError, match=rf"{name} of decoder layer 0 holds 1 of \d+ numbers that are not finite"):
        judge(layers, truth_of(), ORIGINAL)


def test_losses_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="Did you mean 'original'"):
        loss_config("orignal")
    for wrong in (-1.0, math.nan):
        with pytest.raises(UsageError, match="giou must be 0 or more"):
            LossConfig(recipe="own", giou=wrong)
    network = RtDetrPose(network_config("tiny", classes=CLASSES))
    with pytest.raises(ContractError, match="denoising=True"):
        PoseLoss(DEFAULT)(network, torch.rand(1, 3, 64, 64), truth_of())
    one = RtDetrPose(network_config("tiny", classes=1))
    with pytest.raises(InputError, match="label 2 with 1 classes"):
        PoseLoss(DEFAULT)(one, torch.rand(1, 3, 64, 64), truth_of())
