"""Every cell's own class and box: where a cell lies, and which cells an object teaches."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from adapters._shared.training.batch import Truth
from adapters.rtdetr_pose.config import loss_config, network_config
from adapters.rtdetr_pose.dense import CELLS_PER_BOX, cell_boxes
from adapters.rtdetr_pose.loss import PoseLoss
from adapters.rtdetr_pose.model import RtDetrPose
from bench.errors import ContractError

HW = (64, 96)
SIZES_HW = [(8, 12), (4, 6), (2, 3)]
CELLS = 8 * 12 + 4 * 6 + 2 * 3
DEFAULT = loss_config("default")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return RtDetrPose(network_config("tiny", classes=3), dense=True).eval()


def test_a_cells_box_lies_where_its_features_come_from(network):
    """Found by perturbation: the cell that changes most is the one whose box lies at the changed pixels."""
    boxes = torch.from_numpy(cell_boxes(SIZES_HW)).sigmoid()[0]
    blank = torch.zeros(1, 3, *HW)
    with torch.inference_mode():
        before = network.backbone(blank)
        for y, x in ((8, 8), (40, 88), (56, 24)):
            image = blank.clone()
            image[:, :, y - 4 : y + 4, x - 4 : x + 4] = 1
            first = 0
            for level, (old, new) in enumerate(zip(before, network.backbone(image), strict=True)):
                cells = old.shape[2] * old.shape[3]
                worst = first + int((new - old).abs().sum(1).flatten().argmax())
                centre = boxes[worst, :2] * torch.tensor([HW[1], HW[0]])
                assert (centre - torch.tensor([x, y])).abs().max() <= 8 * 2**level
                first += cells


def test_there_is_one_box_per_cell_and_levels_differ_in_size(network):
    boxes = 1 / (1 + np.exp(-cell_boxes(SIZES_HW)[0]))
    logits, raw = network.dense(network.pyramid(torch.rand(1, 3, *HW)))
    assert logits.shape == (1, CELLS, 4)
    assert raw.shape == (1, CELLS, 4)
    assert len(boxes) == CELLS
    assert boxes[0] == pytest.approx([0.5 / 12, 0.5 / 8, CELLS_PER_BOX / 12, CELLS_PER_BOX / 8])
    assert boxes[-1] == pytest.approx([2.5 / 3, 1.5 / 2, CELLS_PER_BOX / 3, 0.9])


def truth_of(*objects):
    boxes, labels = zip(*objects, strict=True)
    return Truth(torch.tensor([boxes], dtype=torch.float32), torch.tensor([labels]), {})


def test_an_object_teaches_the_given_number_of_cells_around_it():
    truth = truth_of(([32, 16, 64, 48], 1), ([0, 0, 0, 0], -1))
    for times in (1, 4):
        logits = torch.zeros(1, CELLS, 4, requires_grad=True)
        raw = torch.from_numpy(cell_boxes(SIZES_HW)).float().requires_grad_()
        PoseLoss(replace(DEFAULT, dense_repeats=times))._dense(logits, raw, truth, HW).backward()
        taught = raw.grad[0].abs().sum(1).nonzero()[:, 0]
        assert len(taught) == times
        assert torch.equal((logits.grad[0, :, 1] < 0).nonzero()[:, 0], taught)
        centres = raw.detach()[0, taught, :2].sigmoid() * torch.tensor([HW[1], HW[0]])
        assert (centres - torch.tensor([48.0, 32])).abs().max() <= 24


def test_two_objects_never_teach_one_cell_and_their_own_classes():
    truth = truth_of(([10, 10, 40, 40], 0), ([12, 12, 42, 42], 2))
    logits = torch.zeros(1, CELLS, 4, requires_grad=True)
    raw = torch.from_numpy(cell_boxes(SIZES_HW)).float().requires_grad_()
    PoseLoss(replace(DEFAULT, dense_repeats=3))._dense(logits, raw, truth, HW).backward()
    of_class = [(logits.grad[0, :, label] < 0).nonzero()[:, 0].tolist() for label in (0, 1, 2)]
    assert [len(rows) for rows in of_class] == [3, 0, 3]
    assert not set(of_class[0]) & set(of_class[2])


def test_the_part_is_reported_weighs_what_it_is_told_and_can_be_left_out(network):
    images, truth = torch.rand(1, 3, *HW), truth_of(([10, 10, 40, 40], 0))
    torch.manual_seed(0)
    config = replace(DEFAULT, denoising_groups=0)
    total, parts = PoseLoss(config)(network, images, truth)
    twice, again = PoseLoss(replace(config, dense=2.0))(network, images, truth)
    plain, without = PoseLoss(replace(config, dense=0.0))(network, images, truth)
    assert parts["dense"] > 0
    assert again["dense"].item() == pytest.approx(2 * parts["dense"].item())
    assert "dense" not in without
    assert total.item() == pytest.approx(plain.item() + parts["dense"].item(), rel=1e-5)
    assert twice.item() == pytest.approx(plain.item() + 2 * parts["dense"].item(), rel=1e-5)


def test_a_network_that_was_not_built_for_it_is_refused():
    network = RtDetrPose(network_config("tiny", classes=3), denoising=True)
    with pytest.raises(ContractError, match="dense=True"):
        PoseLoss(DEFAULT)(network, torch.rand(1, 3, *HW), truth_of(([10, 10, 40, 40], 0)))
