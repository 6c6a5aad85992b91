"""All six variants are the published ones: counts, keys and shapes, layers by the table, strict weights."""

import functools
import json

import pytest
import torch
from safetensors.torch import save_file

from adapters._shared.checkpoints import read_shapes
from adapters._shared.synthetic import make_image
from adapters.yolov10 import COCO_NAMES, adapter, adapter_b, adapter_l, adapter_m, adapter_s, adapter_x
from adapters.yolov10.blocks import CIB, PSA, SPPF, C2f, C2fCIB, Conv, RepVGGDW, SCDown
from adapters.yolov10.fuse import fused
from adapters.yolov10.model import YoloV10
from adapters.yolov10.tests.synthetic_networks import filled
from adapters.yolov10.variants import ONE2MANY_PREFIXES, VARIANTS, variant_of
from bench.paths import data_dir

SHAPE_TABLE = data_dir().parent / "reference" / "state_dicts" / "yolov10_statedict_shapes.json"
PARAMETERS = {
    "n": (2_775_520, 2_310_624, 2_299_264),
    "s": (8_128_272, 7_277_920, 7_248_960),
    "m": (16_576_768, 15_389_968, 15_359_488),
    "b": (20_574_384, 19_101_696, 19_065_792),
    "l": (25_888_688, 24_416_000, 24_371_008),
    "x": (31_808_960, 29_539_408, 29_473_568),
}
"""Of the official implementation: with both heads, without the one-to-many head, that one with norms folded."""
ENTRIES = {"n": 595, "s": 619, "m": 799, "b": 835, "l": 1027, "x": 1135}
REGISTERED = {"n": adapter, "s": adapter_s, "m": adapter_m, "b": adapter_b, "l": adapter_l, "x": adapter_x}
C2F_LAYERS = (2, 4, 6, 8, 13, 16, 19, 22)
INVERTED = {
    "n": {22},
    "s": {8, 22},
    "m": {8, 19, 22},
    "b": {8, 13, 19, 22},
    "l": {8, 13, 19, 22},
    "x": {6, 8, 13, 19, 22},
}
"""Layers of the table that are C2fCIB; the other C2f layers hold plain bottlenecks."""
LARGE_KERNEL = {"n": {22}, "s": {8, 22}, "m": set(), "b": set(), "l": set(), "x": set()}
CHANNELS = {
    "n": (16, 32, 64, 128, 256),
    "s": (32, 64, 128, 256, 512),
    "m": (48, 96, 192, 384, 576),
    "b": (64, 128, 256, 512, 512),
    "l": (64, 128, 256, 512, 512),
    "x": (80, 160, 320, 640, 640),
}
REPEATS = {"n": (1, 2), "s": (1, 2), "m": (2, 4), "b": (2, 4), "l": (3, 6), "x": (3, 6)}
"""Inner blocks of layers 2, 8 to 22, and of layers 4 and 6."""


@functools.cache
def outline(variant, classes=80):
    """The network without values."""
    with torch.device("meta"):
        return YoloV10(variant, classes)


def for_inference(variant, classes=80):
    """The same without the head that only training needs."""
    with torch.device("meta"):
        network = YoloV10(variant, classes).eval()
    network.head.drop_one2many()
    return network


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_has_the_published_number_of_entries_and_parameters(variant):
    assert len(outline(variant).state_dict()) == ENTRIES[variant]
    assert count(outline(variant)) == PARAMETERS[variant][0]
    inference = for_inference(variant)
    assert count(inference) == PARAMETERS[variant][1]
    assert count(fused(inference)) == PARAMETERS[variant][2]
    assert VARIANTS[variant].parameters(80) == PARAMETERS[variant][2]


@pytest.mark.parametrize("classes", [1, 3, 8, 79, 101, 365])
@pytest.mark.parametrize("variant", ["n", "s", "b"])
def test_the_stated_parameters_follow_the_number_of_classes(variant, classes):
    assert VARIANTS[variant].parameters(classes) == count(fused(for_inference(variant, classes)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_registered_model_states_its_own_parameters(variant):
    spec = REGISTERED[variant].spec
    assert spec.parameters == count(fused(for_inference(variant, len(spec.class_names))))


@pytest.mark.parametrize("variant", VARIANTS)
def test_keys_and_shapes_are_the_official_ones_in_order(variant):
    if not SHAPE_TABLE.is_file():
        pytest.skip(f"the table of official shapes is not on this machine ({SHAPE_TABLE.name})")
    official = json.loads(SHAPE_TABLE.read_text("utf-8"))[variant]
    own = {key: list(value.shape) for key, value in outline(variant).state_dict().items()}
    assert own == official
    assert list(own) == list(official)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layer_is_the_one_of_the_published_table(variant):
    layers = outline(variant).model
    assert {i for i in C2F_LAYERS if isinstance(layers[i], C2fCIB)} == INVERTED[variant]
    assert {i for i in C2F_LAYERS if any(isinstance(m, RepVGGDW) for m in layers[i].modules())} == LARGE_KERNEL[variant]
    few, many = REPEATS[variant]
    for index in C2F_LAYERS:
        assert isinstance(layers[index], C2f)
        assert len(layers[index].m) == (many if index in (4, 6) else few)
        for block in layers[index].m:
            assert isinstance(block, CIB) == (index in INVERTED[variant])
            assert block.shortcut == (index in INVERTED[variant] or index in (2, 4, 6, 8))
    kinds = {0: Conv, 1: Conv, 3: Conv, 5: SCDown, 7: SCDown, 9: SPPF, 10: PSA, 17: Conv, 20: SCDown}
    assert {i: type(layers[i]) for i in kinds} == kinds
    c64, c128, c256, c512, c1024 = CHANNELS[variant]
    widths = {0: c64, 1: c128, 2: c128, 3: c256, 4: c256, 6: c512, 8: c1024, 9: c1024}
    widths |= {13: c512, 16: c256, 17: c256, 19: c512, 22: c1024}
    found = {i: (layers[i].conv if isinstance(layers[i], Conv) else layers[i].cv2.conv).out_channels for i in widths}
    assert found == widths
    assert layers[10].attn.heads == (c1024 // 2) // 64


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_rectangular_image_gives_one_box_and_all_scores_per_anchor(variant):
    network = filled(variant)
    with torch.inference_mode():
        boxes, scores = network(torch.from_numpy(make_image("rectangle", (2, 3, 64, 96))))
    anchors = 8 * 12 + 4 * 6 + 2 * 3
    assert (tuple(boxes.shape), tuple(scores.shape)) == ((2, 4, anchors), (2, 80, anchors))
    assert bool(torch.isfinite(boxes).all())
    assert float(scores.std()) > 0.005, "scores are spread, so that a wrong layer shows"
    assert not torch.equal(boxes[0], boxes[1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_of_every_variant_are_recognised(variant):
    assert variant_of({key: tuple(value.shape) for key, value in outline(variant, 3).state_dict().items()}) == variant


def test_weights_of_something_else_are_no_variant():
    assert variant_of({}) is None
    assert variant_of({"model.0.conv.weight": (24, 3, 3, 3)}) is None
    assert variant_of({"model.0.conv.weight": (16, 3, 3, 3)}) is None


FORMS = ("safetensors", "pt", "wrapped", "float16", "inference")


@pytest.mark.parametrize(
    ("variant", "form"), [("n", form) for form in FORMS] + [(v, FORMS[i % 5]) for i, v in enumerate("smblx")]
)
def test_official_keys_load_strictly_from_either_form_of_file(tmp_path, variant, form):
    state = {}
    for number, (key, value) in enumerate(outline(variant).state_dict().items(), start=1):
        state[key] = torch.full(value.shape, number, dtype=value.dtype)  # exact in float16
    if form == "inference":
        state = {key: value for key, value in state.items() if not key.startswith(ONE2MANY_PREFIXES)}
    if form == "float16":
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    path = tmp_path / ("w.pt" if form in ("pt", "wrapped") else "w.safetensors")
    if path.suffix == ".pt":
        torch.save({"model": state} if form == "wrapped" else state, path)
    else:
        save_file(state, path)
    assert read_shapes(path) == {key: tuple(value.shape) for key, value in state.items()}
    loaded = REGISTERED[variant].fitted(path)
    assert loaded.spec.class_names == COCO_NAMES
    built = loaded.build(path).state_dict()
    assert set(built) == {key for key in outline(variant).state_dict() if not key.startswith(ONE2MANY_PREFIXES)}
    for key, value in built.items():
        assert value.dtype in (torch.float32, torch.int64)
        assert torch.equal(value, state[key].to(value.dtype)), key


@pytest.mark.parametrize("variant", "smblx")
def test_variants_without_weights_are_those_of_coco_at_640_px(variant):
    spec = REGISTERED[variant].spec
    assert (spec.name, spec.image_hw, spec.class_names) == (f"yolov10{variant}", (640, 640), COCO_NAMES)
    assert (spec.default_fixtures, spec.default_weights) == ("coco128", None)
