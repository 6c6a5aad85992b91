"""Weights find their way into a network of other classes, and frozen parts stay as they are."""

import copy
import pickle

import pytest
import torch
from torch import nn

from adapters._shared.training.transfer import freeze, load_weights
from adapters.yolov10.model import YoloV10
from bench.errors import ContractError, InputError, UsageError

CLASS_DEPENDENT = ("model.23.cv3.", "model.23.one2one_cv3.")
COPIES = {"model.23.cv2.": "model.23.one2one_cv2.", "model.23.cv3.": "model.23.one2one_cv3."}
BACKBONE = {"backbone": tuple(f"model.{i}." for i in range(11)), "head": ("model.23.",)}


class Small(nn.Module):
    """A body and a class head whose inner layers do not depend on the number of classes."""

    def __init__(self, classes, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 1, bias=False), nn.BatchNorm2d(width))
        self.head = nn.Sequential(nn.Conv2d(width, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, classes, 1))

    def forward(self, x):
        return self.head(self.body(x))


def equal(network, state, keys):
    own = network.state_dict()
    return [torch.equal(own[key], state[key]) for key in keys]


def test_weights_of_the_same_classes_are_taken_whole_and_in_order():
    donor, network = Small(3), Small(3)
    loaded = load_weights(
        network, donor.state_dict(), "weights x", class_dependent=("head.",), class_names_to=("a", "b", "c")
    )
    assert all(equal(network, donor.state_dict(), donor.state_dict()))
    assert loaded.reinitialised == ()
    assert loaded.note == "3 classes taken in order (the weights name none)"
    again = load_weights(network, donor.state_dict(), "weights x")
    assert again.note == f"all {len(donor.state_dict())} entries taken over"


def test_another_number_of_classes_keeps_the_networks_own_class_rows_and_says_so():
    donor, network = Small(80), Small(3)
    before = copy.deepcopy(network.state_dict())
    loaded = load_weights(network, donor.state_dict(), "weights x", class_dependent=("head.",))
    assert loaded.note == "head re-initialised: 80 -> 3 classes, 2 tensors"
    assert loaded.reinitialised == ("head.2.weight", "head.2.bias")
    assert equal(network, before, loaded.reinitialised) == [True, True]
    rest = [key for key in before if key not in loaded.reinitialised]
    assert all(equal(network, donor.state_dict(), rest))


def test_rows_of_equal_names_are_taken_over_in_any_order():
    donor, network = Small(4), Small(3)
    before = copy.deepcopy(network.state_dict())
    loaded = load_weights(
        network,
        donor.state_dict(),
        "weights x",
        class_dependent=("head.",),
        class_names_from=("cat", "cow", "dog", "emu"),
        class_names_to=("dog", "yak", "cat"),
    )
    assert loaded.copied_classes == ("dog", "cat")
    assert "4 -> 3 classes, 2 tensors; rows of 2 classes of equal name kept (dog, cat)" in loaded.note
    for key in ("head.2.weight", "head.2.bias"):
        got, old = network.state_dict()[key], donor.state_dict()[key]
        assert torch.equal(got[0], old[2])
        assert torch.equal(got[2], old[0])
        assert torch.equal(got[1], before[key][1])


def test_equal_numbers_of_other_classes_are_matched_by_name_not_by_order():
    donor, network = Small(2), Small(2)
    facts = {"class_dependent": ("head.",), "class_names_from": ("cat", "dog")}
    loaded = load_weights(network, donor.state_dict(), "weights x", class_names_to=("dog", "cat"), **facts)
    assert torch.equal(network.state_dict()["head.2.bias"], donor.state_dict()["head.2.bias"].flip(0))
    assert loaded.note == "head: 2 -> 2 classes, the rows of all 2 taken over by name"
    assert loaded.reinitialised == ()
    network = Small(2)
    before = copy.deepcopy(network.state_dict())
    loaded = load_weights(network, donor.state_dict(), "weights x", class_names_to=("emu", "yak"), **facts)
    assert equal(network, before, ["head.2.weight", "head.2.bias"]) == [True, True]
    assert loaded.note == "head re-initialised: 2 -> 2 classes, 2 tensors"


def test_without_declared_modules_another_number_of_classes_stays_an_error():
    with pytest.raises(
        InputError, match=r"2 of another shape: head\.2\.weight \(80, 4, 1, 1\) instead of \(3, 4, 1, 1\)"
    ):
        load_weights(Small(3), Small(80).state_dict(), "weights x")


@pytest.mark.parametrize("classes", [80, 3])
def test_a_difference_that_the_classes_do_not_explain_stays_an_error(classes):
    donor = Small(classes, width=6).state_dict()
    with pytest.raises(InputError, match=r"weights x do not fit Small: .*body\.0\.weight \(6, 3, 1, 1\) instead of"):
        load_weights(Small(3), donor, "weights x", class_dependent=("head.",))


def test_missing_and_unexpected_entries_within_the_head_stay_errors():
    donor = Small(80).state_dict()
    with pytest.raises(InputError, match=r"1 missing: head\.0\.weight; 1 unexpected: head\.9\.weight"):
        load_weights(
            Small(3),
            {k.replace("head.0.weight", "head.9.weight"): v for k, v in donor.items()},
            "weights x",
            class_dependent=("head.",),
        )


def test_names_and_rows_must_be_as_many():
    donor = Small(4).state_dict()
    with pytest.raises(InputError, match=r"weights x name 2 classes and have a head of 4"):
        load_weights(Small(3), donor, "weights x", class_dependent=("head.",), class_names_from=("a", "b"))
    with pytest.raises(ContractError, match=r"no biased layers of 2 outputs, but of \[3\]"):
        load_weights(Small(3), donor, "weights x", class_dependent=("head.",), class_names_to=("a", "b"))
    with pytest.raises(ContractError, match="declare the modules of its class head"):
        load_weights(Small(3), donor, "weights x", class_dependent=("tail.",))


@pytest.fixture(scope="module")
def coco_n():
    return YoloV10("n", 80).state_dict()


def test_yolov10n_rebuilds_its_class_branches_whole_because_their_inner_width_follows_the_classes(coco_n):
    network = YoloV10("n", 8)
    before = copy.deepcopy(network.state_dict())
    names = tuple(f"class {k}" for k in range(80))
    loaded = load_weights(
        network, coco_n, "weights x", class_dependent=CLASS_DEPENDENT, class_names_from=names, class_names_to=names[:8]
    )
    inside = [key for key in before if key.startswith(CLASS_DEPENDENT)]
    assert sorted(loaded.reinitialised) == sorted(inside)
    assert all(equal(network, before, inside))
    assert all(equal(network, coco_n, [key for key in before if key not in inside]))
    assert f"80 -> 8 classes, {len(inside)} tensors; rows of equal names could not be kept" in loaded.note
    assert loaded.copied_classes == ()


def test_a_wider_variant_keeps_its_inner_layers_and_the_rows_of_equal_names():
    donor, network = YoloV10("s", 80).state_dict(), YoloV10("s", 3)
    names = tuple(f"class {k}" for k in range(80))
    loaded = load_weights(
        network,
        donor,
        "weights x",
        class_dependent=CLASS_DEPENDENT,
        class_names_from=names,
        class_names_to=("class 7", "new", "class 2"),
    )
    assert "80 -> 3 classes, 12 tensors; rows of 2 classes of equal name kept" in loaded.note
    key = "model.23.one2one_cv3.1.2.weight"
    assert torch.equal(network.state_dict()[key][0], donor[key][7])
    assert torch.equal(network.state_dict()["model.23.cv3.0.0.1.conv.weight"], donor["model.23.cv3.0.0.1.conv.weight"])


def test_an_absent_head_starts_from_its_counterpart(coco_n):
    shipped = {key: value for key, value in coco_n.items() if not key.startswith(tuple(COPIES))}
    network = YoloV10("n", 80)
    loaded = load_weights(network, shipped, "weights x", class_dependent=CLASS_DEPENDENT, copies=COPIES)
    own = network.state_dict()
    absent = [key for key in coco_n if key.startswith(tuple(COPIES))]
    assert sorted(loaded.copied) == sorted(absent)
    assert all(torch.equal(own[key], shipped[key.replace("23.cv", "23.one2one_cv")]) for key in absent)
    assert "model.23.cv2. absent, started from model.23.one2one_cv2." in loaded.note
    with pytest.raises(InputError, match=r"missing: model\.23\.cv2"):
        load_weights(YoloV10("n", 80), shipped, "weights x")


def test_an_absent_head_of_other_classes_starts_its_boxes_from_the_counterpart_and_its_classes_anew(coco_n):
    shipped = {key: value for key, value in coco_n.items() if not key.startswith(tuple(COPIES))}
    network = YoloV10("n", 8)
    before = copy.deepcopy(network.state_dict())
    loaded = load_weights(network, shipped, "weights x", class_dependent=CLASS_DEPENDENT, copies=COPIES)
    own = network.state_dict()
    assert torch.equal(own["model.23.cv2.0.2.weight"], shipped["model.23.one2one_cv2.0.2.weight"])
    assert torch.equal(own["model.23.cv3.0.2.weight"], before["model.23.cv3.0.2.weight"])
    assert "head re-initialised: 80 -> 8" in loaded.note
    assert "model.23.cv3. absent" not in loaded.note


def test_a_frozen_part_keeps_weights_and_statistics_through_training():
    torch.manual_seed(0)
    network = Small(3)
    note = freeze(network, "body", {"body": ("body.",), "head": ("head.",)})
    assert note == "frozen by 'body': 20 of 59 parameters (3 tensors), statistics of 1 batch norms fixed"
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        network.train()
        network(torch.randn(2, 3, 4, 4)).square().sum().backward()
        optimizer.step()
    after = network.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if key.startswith("head.")}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_of_a_network_hold_their_own_batch_norms(duplicate):
    network = Small(3)
    freeze(network, "body", {"body": ("body.",)})
    twin = duplicate(network).train()
    mean = twin.body[1].running_mean.clone()
    twin(torch.randn(2, 3, 4, 4))
    assert torch.equal(twin.body[1].running_mean, mean)
    assert not twin.body[1].training
    assert twin.head[1].training


def test_a_batch_norm_of_which_only_a_part_is_frozen_goes_on_learning_its_statistics():
    network = Small(3)
    assert "statistics of 0 batch norms" in freeze(network, r"body\.1\.weight", {})
    network.train()(torch.randn(2, 3, 4, 4))
    assert network.body[1].running_mean.abs().sum() > 0


def test_a_batch_norm_without_parameters_is_held_with_its_group():
    network = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)), nn.Linear(2, 1))
    freeze(network, "first", {"first": ("0.",)})
    network.train()(torch.randn(4, 2))
    assert network[0][1].running_mean.abs().sum() == 0


def test_the_backbone_of_yolov10_is_frozen_by_group_and_by_expression():
    by_group, by_name = YoloV10("n", 3), YoloV10("n", 3)
    note = freeze(by_group, "backbone", BACKBONE)
    assert freeze(by_name, r"^model\.(\d|10)\.", BACKBONE).split(": ")[1] == note.split(": ")[1]
    frozen = {name for name, p in by_group.named_parameters() if not p.requires_grad}
    constant = {"model.23.dfl.conv.weight"}
    assert frozen - constant == {
        name for name, _ in by_group.named_parameters() if name.startswith(BACKBONE["backbone"])
    }
    both = YoloV10("n", 3)
    freeze(both, "backbone, head", BACKBONE)
    assert {n.split(".")[1] for n, p in both.named_parameters() if p.requires_grad} == {
        "13",
        "16",
        "17",
        "19",
        "20",
        "22",
    }


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("backbne", "no parameter that learns is called so. Did you mean 'backbone'"),
        ("backbone,haed", "no group is called 'haed'. Did you mean 'head'"),
        ("model.(", r"neither a group nor a regular expression"),
        ("dfl", "no parameter that learns is called so"),
        (".", r"takes all \d+ parameters, nothing is left to learn. Groups: backbone, head"),
    ],
)
def test_a_pattern_that_freezes_nothing_or_everything_is_a_usage_error(pattern, message):
    network = YoloV10("n", 3)
    learning = [p.requires_grad for p in network.parameters()]
    with pytest.raises(UsageError, match=message):
        freeze(network, pattern, BACKBONE)
    assert [p.requires_grad for p in network.parameters()] == learning


def test_a_head_that_the_weights_have_is_not_replaced_by_its_counterpart():
    donor = {"body.weight": torch.zeros(2, 2), "head.weight": torch.ones(2, 2)}
    network = nn.ModuleDict({"body": nn.Linear(2, 2, bias=False), "head": nn.Linear(2, 2, bias=False)})
    loaded = load_weights(network, donor, "weights x", copies={"head.": "body."})
    assert torch.equal(network["head"].weight, donor["head.weight"])
    assert loaded.copied == ()


def test_an_entry_that_is_missing_in_a_rebuilt_head_stays_an_error(coco_n):
    state = dict(coco_n)
    del state["model.23.cv3.1.0.0.conv.weight"]
    with pytest.raises(InputError, match=r"1 missing: model\.23\.cv3\.1\.0\.0\.conv\.weight"):
        load_weights(YoloV10("n", 8), state, "weights x", class_dependent=CLASS_DEPENDENT)


def test_a_refused_file_leaves_the_network_as_it_was():
    network = Small(3)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(InputError, match="1 unexpected: more"):
        load_weights(
            network,
            {**Small(4).state_dict(), "more": torch.zeros(1)},
            "weights x",
            class_dependent=("head.",),
            class_names_from=("a", "b", "c", "d"),
            class_names_to=("c", "e", "a"),
        )
    assert all(equal(network, before, before))
