"""The network is the published one: official keys, and the numbers of the golden."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters._shared.synthetic import make_entry, make_image
from adapters.yolov10 import adapter
from adapters.yolov10.model import YoloV10
from adapters.yolov10.process import select
from adapters.yolov10.tests.synthetic_networks import filled
from bench.errors import UsageError

GOLDENS = Path(__file__).parents[3] / "fixtures" / "goldens"


@pytest.fixture(scope="module", params=["n", "s"])
def golden(request):
    path = GOLDENS / f"yolov10{request.param}_320"
    with np.load(path.with_suffix(".npz")) as arrays:
        return json.loads(path.with_suffix(".json").read_text()), dict(arrays)


@pytest.fixture(scope="module")
def network(golden):
    info, _ = golden
    return filled(info["variant"], info["classes"], info["conv_gain"])


@pytest.fixture(scope="module")
def found(golden, network):
    info, _ = golden
    values = {}
    hooks = [
        network.model[i].register_forward_hook(lambda _m, _i, out, i=i: values.update({f"layer{i}": out}))
        for i in (4, 6, 10, 16, 19, 22)
    ]
    with torch.inference_mode():
        images = torch.from_numpy(make_image(info["image_name"], tuple(info["input_shape"])))
        branches = dict(zip(("one2many", "one2one"), network.branches(images), strict=True))
        for name, branch in branches.items():
            for level, (boxes, classes) in enumerate(zip(branch.boxes, branch.classes, strict=True), start=3):
                values |= {f"{name}_box_p{level}": boxes, f"{name}_cls_p{level}": classes}
            values[f"{name}_pred"] = torch.cat(network.head.decode(branch), 1)
        values["forward"] = torch.cat(network(images), 1)
    for hook in hooks:
        hook.remove()
    return {key: value.numpy() for key, value in values.items()}


def test_the_recipe_makes_the_weights_and_the_image_of_the_golden(golden):
    info, _ = golden
    for key, expected in info["fill_sha256"].items():
        entry = make_entry(key, tuple(info["state_dict"][key]), info["conv_gain"])
        assert hashlib.sha256(entry.tobytes()).hexdigest() == expected
    image = make_image(info["image_name"], tuple(info["input_shape"]))
    assert hashlib.sha256(image.tobytes()).hexdigest() == info["image_sha256"]


def test_every_tensor_of_the_golden_is_reproduced_within_its_tolerance(golden, found):
    info, stored = golden
    compared = [name for name in info["tensors"] if name in found]
    assert len(compared) == 20
    for name in compared:
        facts = info["tensors"][name]
        assert list(found[name].shape) == facts["full_shape"], name
        steps = tuple(slice(None, None, step) for step in facts["stride"])
        part = found[name][steps]
        expected = stored[name]
        part = part[tuple(slice(size) for size in expected.shape)]
        np.testing.assert_allclose(part, expected, rtol=0, atol=facts["tolerance"], err_msg=name)


def test_forward_gives_the_decoded_one_to_one_predictions(found):
    np.testing.assert_array_equal(found["forward"], found["one2one_pred"])


def test_selection_finds_the_detections_of_the_golden(golden, found):
    info, stored = golden
    for image in range(2):
        boxes, scores, labels = select(found["forward"][image, :4], found["forward"][image, 4:], 300)
        box_px, score = info["tensors"]["det_boxes_cxcywh"]["tolerance"], info["tensors"]["det_scores"]["tolerance"]
        np.testing.assert_allclose(scores, stored["det_scores"][image], rtol=0, atol=score)
        far = np.abs(boxes[:, None] - stored["det_boxes_cxcywh"][image][None]).max(-1)
        apart = np.abs(scores[:, None] - stored["det_scores"][image][None])
        pairs = (far <= box_px) & (apart <= score) & (labels[:, None] == stored["det_labels"][image][None])
        assert pairs.any(0).all()
        assert pairs.any(1).all()


def test_the_keys_and_shapes_are_the_official_ones_in_order(golden, network):
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == golden[0]["state_dict"]
    assert list(network.state_dict()) == list(golden[0]["state_dict"])


def test_an_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="Known: b, l, m, n, s, x"):
        YoloV10("q", 80)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_cast_network_computes_in_its_dtype_and_stays_near_float32(dtype):
    images = torch.from_numpy(make_image("cast", (1, 3, 64, 96)))
    expected, _ = adapter.build(None, seed=3)(images)
    boxes, scores = adapter.build(None, seed=3).to(dtype)(images.to(dtype))
    assert boxes.dtype == scores.dtype == dtype
    anchors = 8 * 12 + 4 * 6 + 2 * 3
    assert (boxes.shape, scores.shape) == ((1, 4, anchors), (1, 8, anchors))
    np.testing.assert_allclose(boxes.float(), expected, atol=1.0 if dtype != torch.float64 else 1e-3)


def test_the_one_to_one_head_sends_no_gradient_into_the_backbone():
    built = YoloV10("n", 8).train()
    _, one2one = built.branches(torch.rand(2, 3, 64, 64))
    sum(x.sum() for x in one2one.boxes + one2one.classes).backward()
    assert built.model[0].conv.weight.grad is None
    assert built.head.one2one_cv3[0][2].weight.grad is not None
