"""What the cells say: where a cell lies, what it is taught, and that queries start from it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from adapters._shared.training.batch import Truth
from adapters.rtdetr_pose.config import BINS, loss_config, network_config
from adapters.rtdetr_pose.loss import PoseLoss, soft_class_loss
from adapters.rtdetr_pose.matcher import Matching
from adapters.rtdetr_pose.model import RtDetrPose
from adapters.rtdetr_pose.proposals import EDGE, ProposalHead, taught_less
from bench.errors import ContractError

SIDE = 320
CONFIG = network_config("tiny", classes=3)
GRID = CONFIG.query_grid
LOSS = loss_config("default", proposals=True)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return RtDetrPose(CONFIG).eval()


def proposals_of(network, images):
    with torch.inference_mode():
        return network.propose(network.pyramid(images))


def truth_of(*objects):
    boxes, labels = zip(*objects, strict=True)
    return Truth(torch.tensor([boxes], dtype=torch.float32), torch.tensor([labels]), {})


def test_a_query_starts_at_its_own_cell_row_by_row(network):
    boxes = proposals_of(network, torch.rand(1, 3, SIDE, SIDE)).bbox[0].sigmoid()
    with torch.inference_mode():
        predicted = network(torch.rand(1, 3, SIDE, SIDE))[1][0].sigmoid()
    for row, column in ((3, 7), (16, 2)):
        cell = row * GRID + column
        middle = torch.tensor([column + 0.5, row + 0.5]) / GRID
        np.testing.assert_allclose(boxes[cell, :2], middle, atol=0.06)
        np.testing.assert_allclose(predicted[cell, :2], middle, atol=0.1)


def test_a_cells_box_lies_where_its_features_come_from(network):
    """Found by perturbation: the cell whose features change most is the one whose centre lies at the changed pixels."""
    blank = torch.zeros(1, 3, SIDE, SIDE)
    centres = network.proposals.centres(blank) * (SIDE / GRID)
    with torch.inference_mode():
        before = network.backbone(blank)[CONFIG.query_level]
        for y, x in ((40, 40), (200, 88), (280, 232)):
            image = blank.clone()
            image[:, :, y - 4 : y + 4, x - 4 : x + 4] = 1
            worst = int((network.backbone(image)[CONFIG.query_level] - before).abs().sum(1).flatten().argmax())
            assert (centres[worst] - torch.tensor([x, y])).abs().max() <= SIDE / GRID


def test_the_box_is_the_expected_distance_to_each_side():
    head = ProposalHead(CONFIG)
    sides = torch.full((1, GRID**2, 4, BINS), -50.0)
    left, top, right, bottom = 2, 1, 4, 3
    for side, cells in enumerate((left, top, right, bottom)):
        sides[..., side, cells] = 50
    box = head._bbox(sides.flatten(2))[0, 8 * GRID + 10].sigmoid() * GRID
    assert box.tolist() == pytest.approx([10.5 + 1, 8.5 + 1, 6, 4], abs=1e-4)


def test_a_box_that_leaves_the_image_has_finite_raw_numbers_in_float16():
    head = ProposalHead(CONFIG)
    sides = torch.zeros(1, GRID**2, 4, BINS)
    sides[..., -1] = 60
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        raw = head._bbox(sides.flatten(2).to(dtype))
        assert torch.isfinite(raw).all()
        assert raw.sigmoid().float().max() <= 1 - EDGE + 0.01


def test_a_number_that_is_not_finite_stays_visible():
    head = ProposalHead(CONFIG)
    sides = torch.zeros(1, GRID**2, 4 * BINS)
    sides[0, 5, 3] = torch.nan
    assert head._bbox(sides).isnan().any(-1)[0].nonzero().tolist() == [[5]]


def test_queries_without_the_proposals_that_they_start_from_are_refused(network):
    pyramid = network.pyramid(torch.rand(1, 3, 64, 64))
    with pytest.raises(ContractError, match="what propose"):
        network.layers(pyramid)
    learned = RtDetrPose(replace(CONFIG, proposals=False)).eval()
    learned.layers(pyramid)
    with pytest.raises(ContractError, match="what propose"):
        learned.layers(pyramid, network.propose(pyramid))


@pytest.mark.parametrize("image_hw", [(64, 96), (640, 640)])
def test_any_image_size_has_the_same_number_of_queries(network, image_hw):
    found = proposals_of(network, torch.rand(1, 3, *image_hw))
    assert found.logits.shape == (1, GRID**2, 3)
    assert found.bbox.shape == (1, GRID**2, 4)


def test_an_object_teaches_cells_inside_it_its_class_and_its_box(network):
    """Where the gradient goes: up for the class of the object, at cells inside the object alone."""
    network.train()
    box = [96.0, 32, 224, 128]
    truth = truth_of((box, 1), ([0, 0, 0, 0], -1))
    loss = PoseLoss(LOSS)
    raw = loss.forward(network, torch.rand(1, 3, SIDE, SIDE), truth)
    logits = raw.proposed.logits.detach().requires_grad_()
    sides = raw.proposed.side_logits.detach().requires_grad_()
    total, parts = loss.judge(replace(raw, proposed=raw.proposed._replace(logits=logits, side_logits=sides)), truth)
    assert parts["proposals"] > 0
    total.backward()
    taught = sides.grad[0].abs().sum(1).nonzero()[:, 0]
    assert len(taught) == LOSS.proposals_top_k
    centres = raw.proposed.centres[taught] * SIDE / GRID
    assert (centres > torch.tensor(box[:2])).all()
    assert (centres < torch.tensor(box[2:])).all()
    assert set((logits.grad[0, :, 1] < 0).nonzero()[:, 0].tolist()) <= set(taught.tolist())
    assert (logits.grad[0, :, [0, 2]] > 0).all()


def test_cells_of_an_image_that_is_not_square_lie_where_they_should(network):
    truth = truth_of(([48, 0, 96, 64], 0))
    raw = PoseLoss(LOSS).forward(network, torch.rand(1, 3, 64, 96), truth)
    centres = raw.proposed.centres * raw.proposed.cell_px
    assert centres[0].tolist() == pytest.approx([96 / GRID / 2, 64 / GRID / 2])
    assert centres[-1].tolist() == pytest.approx([96 - 96 / GRID / 2, 64 - 64 / GRID / 2])


def test_the_part_weighs_what_it_is_told():
    torch.manual_seed(0)
    network, images, truth = RtDetrPose(CONFIG), torch.rand(1, 3, 64, 64), truth_of(([10, 10, 40, 40], 0))
    network.eval()
    total, parts = PoseLoss(LOSS)(network, images, truth)
    twice, again = PoseLoss(replace(LOSS, proposals=2.0))(network, images, truth)
    assert again["proposals"].item() == pytest.approx(2 * parts["proposals"].item())
    assert twice.item() == pytest.approx(total.item() + parts["proposals"].item(), rel=1e-5)


def test_the_decoder_does_not_teach_the_proposals_and_the_features_as_little_as_it_is_told():
    torch.manual_seed(0)
    images, truth = torch.rand(1, 3, 64, 64), truth_of(([10, 10, 40, 40], 0))
    moved = {}
    for share in (0.0, 0.1, 1.0):
        network = RtDetrPose(CONFIG)
        network.load_state_dict(moved.setdefault("state", network.state_dict()))
        network.eval()
        total, _ = PoseLoss(replace(LOSS, proposals=0.0, decoder_gradient=share))(network, images, truth)
        total.backward()
        assert all(
            p.grad is None or not p.grad.any() for n, p in network.proposals.named_parameters() if "place" not in n
        )
        moved[share] = network.backbone.stage5[0].conv.weight.grad.abs().sum().item()
    assert moved[0.0] == 0
    assert moved[0.1] == pytest.approx(0.1 * moved[1.0], rel=1e-4)


def test_less_teaching_changes_no_value_and_nothing_where_nothing_is_learnt():
    x = torch.rand(3, requires_grad=True)
    y = taught_less(x, 0.25)
    assert torch.equal(x, y)
    (2 * y).sum().backward()
    assert x.grad.tolist() == [0.5, 0.5, 0.5]
    assert taught_less(y.detach(), 0.5).requires_grad is False


def test_the_soft_class_loss_is_zero_exactly_where_every_query_is_as_sure_as_its_box_is_right():
    sure = torch.tensor([0.75])
    matching = Matching(image=torch.tensor([0]), query=torch.tensor([1]), object_=torch.tensor([0]))
    share = torch.tensor([[[0, 0, 1.0], [0.75, 0, 0.25]]]).clamp(min=1e-12)
    labels = torch.tensor([0])
    assert float(soft_class_loss(share.log(), matching, labels, sure, 1.0)) == pytest.approx(0, abs=1e-6)
    for wrong in ([0.9, 0, 0.1], [0.6, 0, 0.4], [0.7, 0.05, 0.25]):
        other = share.clone()
        other[0, 1] = torch.tensor(wrong).clamp(min=1e-12)
        expected = sum(t * np.log(t / p) for t, p in zip((0.75, 0.25), (wrong[0], wrong[2]), strict=True))
        found = float(soft_class_loss(other.log(), matching, labels, sure, 1.0))
        assert found == pytest.approx(expected, abs=1e-5)
        assert found > 0.01


def test_the_soft_class_loss_is_a_sum_over_queries_per_object():
    logits = torch.zeros(1, 6, 3, dtype=torch.float64)
    matching = Matching(image=torch.tensor([0, 0]), query=torch.tensor([1, 4]), object_=torch.tensor([0, 1]))
    labels, sure = torch.tensor([0, 1]), torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert float(soft_class_loss(logits, matching, labels, sure, 1.0)) == pytest.approx(6 * np.log(3) / 2)
    assert float(soft_class_loss(logits, matching, labels, sure, 0.1)) == pytest.approx((2 + 4 * 0.1) * np.log(3) / 2)
    rising = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: soft_class_loss(x, matching, labels, sure * 0.6, 0.5), (rising,))


def test_without_any_object_the_soft_class_loss_teaches_background():
    nothing = torch.zeros(0, dtype=torch.int64)
    matching = Matching(image=nothing, query=nothing, object_=nothing)
    logits = torch.zeros(1, 4, 3, requires_grad=True)
    soft_class_loss(logits, matching, nothing, torch.zeros(0), 1.0).backward()
    assert (logits.grad[..., :2] > 0).all()
    assert (logits.grad[..., 2] < 0).all()


def test_the_default_recipe_is_another_one_for_a_network_with_proposals_and_original_is_not():
    assert (LOSS.soft_classes, LOSS.background, LOSS.denoising_groups) == (True, 1.0, 0)
    assert loss_config("default").denoising_groups == 3
    assert loss_config("original", proposals=True) == loss_config("original")
