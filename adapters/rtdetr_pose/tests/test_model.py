"""The base network is the published one, tiny its small relative; neither runs where memory would not suffice."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters._shared.synthetic import make_entry, make_image
from adapters.rtdetr_pose.config import NETWORKS, NetworkConfig, config_of, network_config
from adapters.rtdetr_pose.model import RtDetrPose, spread
from adapters.rtdetr_pose.process import class_scores, select, sigmoid
from adapters.rtdetr_pose.transformer import Attention, DecoderLayer, EncoderLayer
from bench.errors import InputError, UsageError

GOLDEN = Path(__file__).parents[3] / "fixtures" / "goldens" / "rtdetr_pose_base_160"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.with_suffix(".json").read_text()), np.load(GOLDEN.with_suffix(".npz"))


@pytest.fixture(scope="module")
def network(golden):
    info, _ = golden
    built = RtDetrPose(network_config("base")).eval()
    own = built.state_dict()
    state = {
        key: torch.from_numpy(make_entry(key, tuple(shape), info["conv_gain"])).to(own[key].dtype)
        for key, shape in info["state_dict"].items()
    }
    built.load_state_dict(state, strict=True)
    return built


def run(network, images):
    """Every tensor that the golden names, by forward hooks."""
    values = {}
    names = {"backbone": network.backbone, "neck": network.encoder.fpn}
    hooks = [
        module.register_forward_hook(
            lambda _m, _i, levels, name=name: values.update({f"{name}_{i}": x for i, x in enumerate(levels)})
        )
        for name, module in names.items()
    ]
    hooks.append(network.encoder.register_forward_hook(lambda _m, _i, out: values.update(memory=out)))
    hooks.append(network.decoder.register_forward_hook(lambda _m, _i, out: values.update(decoder=out[-1])))
    with torch.inference_mode():
        values.update(zip(network.config.output_names, network(images), strict=True))
    for hook in hooks:
        hook.remove()
    return {key: value.numpy() for key, value in values.items()}


@pytest.fixture(scope="module")
def found(golden, network):
    info, _ = golden
    return run(network, torch.from_numpy(make_image(info["image_name"], tuple(info["input_shape"]))))


def test_the_recipe_makes_the_weights_and_the_image_of_the_golden(golden):
    info, _ = golden
    for key, expected in info["fill_sha256"].items():
        entry = make_entry(key, tuple(info["state_dict"][key]), info["conv_gain"])
        assert hashlib.sha256(entry.tobytes()).hexdigest() == expected
    image = make_image(info["image_name"], tuple(info["input_shape"]))
    assert hashlib.sha256(image.tobytes()).hexdigest() == info["image_sha256"]


def test_the_keys_and_shapes_are_the_official_ones_in_order(golden, network):
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == golden[0]["state_dict"]
    assert list(network.state_dict()) == list(golden[0]["state_dict"])
    assert len(network.state_dict()) == 308
    assert sum(p.numel() for p in network.parameters()) == 9_857_986


def test_every_tensor_before_the_selection_is_reproduced_within_its_tolerance(golden, found):
    info, stored = golden
    compared = [name for name in info["tensors"] if name in found]
    assert len(compared) == 14
    for name in compared:
        facts = info["tensors"][name]
        assert list(found[name].shape) == facts["full_shape"], name
        part = found[name][tuple(slice(None, None, step) for step in facts["stride"])]
        part = part[tuple(slice(size) for size in stored[name].shape)]
        np.testing.assert_allclose(part, stored[name], rtol=0, atol=facts["tolerance"], err_msg=name)


def test_the_selected_queries_are_those_of_the_golden_as_a_set(golden, found):
    info, stored = golden
    boxes = sigmoid(found["bbox"])
    tolerance = {name: info["tensors"][name]["tolerance"] for name in ("det_boxes_cxcywh", "query_score")}
    # no two queries are nearer to the edge of the selection than rounding: the sets must be equal
    assert info["gap_statistics"]["queries"]["boundary"] > 10 * tolerance["query_score"]
    for image in range(2):
        scores = class_scores(found["logits"][image])
        np.testing.assert_allclose(scores.max(1), stored["query_score"][image], rtol=0, atol=tolerance["query_score"])
        np.testing.assert_array_equal(scores.argmax(1), stored["query_label"][image])
        queries, labels = select(scores, np.zeros(len(scores), bool), 50)
        theirs = stored["det_index"][image]
        assert set(queries.tolist()) == set(theirs.tolist())
        places = [list(theirs).index(query) for query in queries]
        np.testing.assert_array_equal(labels, stored["det_labels"][image][places])
        np.testing.assert_allclose(
            boxes[image, queries], stored["det_boxes_cxcywh"][image][places], rtol=0, atol=tolerance["det_boxes_cxcywh"]
        )


@pytest.mark.parametrize(
    "fault", ["layer norm eps", "batch norm eps", "transposed places", "rotated heads", "stem strides"]
)
def test_a_network_that_differs_in_one_choice_misses_the_golden(golden, network, fault, monkeypatch):
    info, stored = golden
    changed = RtDetrPose(network_config("base")).eval()
    changed.load_state_dict(network.state_dict())
    if fault == "layer norm eps":
        for module in changed.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-3
    elif fault == "batch norm eps":
        for module in changed.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 1e-3
    elif fault == "transposed places":
        from adapters.rtdetr_pose import model

        straight = model.position_encoding
        monkeypatch.setattr(model, "position_encoding", lambda h, w, c, like: straight(h, w, c, like).roll(c // 2, 1))
    elif fault == "rotated heads":
        for module in changed.modules():
            if isinstance(module, Attention):
                module.heads = 4
    else:
        changed.backbone.stem[1].conv.stride, changed.backbone.stem[2].conv.stride = (1, 1), (2, 2)
    images = torch.from_numpy(make_image(info["image_name"], tuple(info["input_shape"])))
    difference = np.abs(run(changed, images)["logits"] - stored["logits"]).max()
    assert difference > 10 * info["tensors"]["logits"]["tolerance"]


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("gradients", [True, False])
def test_the_layers_compute_what_torchs_own_compute_with_the_same_keys(kind, gradients):
    """torch's fused inference path included (gradients off)."""
    torch.manual_seed(0)
    make = torch.nn.TransformerEncoderLayer if kind == "encoder" else torch.nn.TransformerDecoderLayer
    theirs = make(32, 4, 64, dropout=0.0, batch_first=True).eval()
    ours = (EncoderLayer if kind == "encoder" else DecoderLayer)(32, 4, 64).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    tokens, memory = torch.randn(2, 7, 32), torch.randn(2, 11, 32)
    with torch.set_grad_enabled(gradients):
        both = [layer(tokens) if kind == "encoder" else layer(tokens, memory) for layer in (theirs, ours)]
    torch.testing.assert_close(both[0], both[1], atol=2e-6, rtol=1e-5)


def test_blocked_queries_do_not_see_each_other():
    torch.manual_seed(0)
    layer = DecoderLayer(16, 2, 32).eval()
    queries, memory = torch.randn(1, 5, 16), torch.randn(1, 6, 16)
    blocked = torch.zeros(5, 5, dtype=torch.bool)
    blocked[:3, 3:] = True
    before = layer(queries, memory, blocked)
    queries[:, 3:] += 1
    after = layer(queries, memory, blocked)
    torch.testing.assert_close(after[:, :3], before[:, :3])
    assert not torch.allclose(after[:, 3:], before[:, 3:], atol=0.1)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_config_counts_the_parameters_that_remain_when_batch_norms_are_folded(name):
    config = replace(network_config(name), log_sigma=True)
    network = RtDetrPose(config)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    folded = sum(p.numel() for p in network.parameters()) - sum(m.num_features for m in norms)
    assert config.parameters == folded


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_dict_tells_which_config_it_belongs_to(name):
    config = replace(network_config(name, classes=3), keypoints=5, log_sigma=name == "base")
    shapes = {k: tuple(v.shape) for k, v in RtDetrPose(config).state_dict().items()}
    assert config_of(shapes, "weights w") == config


def test_outputs_have_the_names_and_shapes_of_the_config():
    config = replace(network_config("tiny", classes=3), log_sigma=True)
    outputs = RtDetrPose(config).eval()(torch.rand(2, 3, 64, 96))
    shapes = dict(zip(config.output_names, (tuple(o.shape) for o in outputs), strict=True))
    assert shapes == {
        "logits": (2, 400, 4),
        "bbox": (2, 400, 4),
        "log_z": (2, 400, 1),
        "rot6d": (2, 400, 6),
        "offsets": (2, 400, 2),
        "k_delta": (2, 4),
        "keypoints": (2, 400, 34),
        "log_sigma_z": (2, 400, 1),
        "log_sigma_rot": (2, 400, 1),
    }


def test_every_decoder_layer_is_predicted_from_and_the_last_is_what_forward_returns():
    network = RtDetrPose(replace(network_config("tiny", classes=3), decoder_layers=2)).eval()
    images = torch.rand(1, 3, 64, 64)
    pyramid = network.pyramid(images)
    layers = network.layers(pyramid, network.propose(pyramid))
    assert len(layers) == network.config.decoder_layers
    for ours, theirs in zip(layers[-1].named().values(), network(images), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(layers[0].bbox, layers[-1].bbox, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_spread_weights_give_scores_far_further_apart_than_rounding(name):
    torch.manual_seed(0)
    network = RtDetrPose(network_config(name, classes=8)).eval()
    spread(network)
    images = torch.from_numpy(make_image("spread", (2, 3, 160, 160)))
    with torch.inference_mode():
        single = network(images)[0]
        double = network.double()(images.double())[0]
    scores = np.stack([class_scores(x) for x in single.numpy()]).max(2)
    rounding = np.abs(scores - np.stack([class_scores(x) for x in double.numpy()]).max(2)).max()
    assert scores.std() > 0.1
    assert rounding < 1e-4
    assert np.median(np.diff(np.sort(scores[0]))) > 10 * rounding


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_cast_network_computes_in_its_dtype_and_stays_near_float32(name, dtype):
    torch.manual_seed(0)
    network = RtDetrPose(network_config(name, classes=4)).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = network(images)
        found = network.to(dtype)(images.to(dtype))
    assert {x.dtype for x in found} == {dtype}
    bounds = {torch.float64: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.3}
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.float(), theirs, atol=bounds[dtype])


def test_an_image_whose_attention_would_not_fit_is_refused_before_anything_is_computed():
    network = RtDetrPose(network_config("base"))
    with torch.device("meta"):
        images = torch.empty(1, 3, 1280, 1280)
    with pytest.raises(InputError) as caught:
        network(images)
    message = str(caught.value)
    for part in ("1280x1280", "33600 tokens", "72253 MB per image", "limit is 6000 MB", "at most 672 px", "tiny"):
        assert part in message


@pytest.mark.parametrize("image_hw", [(320, 330), (0, 320), (16, 16)])
def test_a_side_that_is_no_multiple_of_the_coarsest_stride_is_refused(image_hw):
    with pytest.raises(InputError, match="multiples of 32"):
        network_config("base").check_image_hw(image_hw)


@given(factor=st.integers(1, 8), k=st.integers(1, 6))
@settings(deadline=None)
def test_attention_grows_with_the_fourth_power_of_the_side(factor, k):
    config = replace(network_config("base"), queries=1)
    one, more = (config.attention_mb((32 * k * f,) * 2) for f in (1, factor))
    assert more == pytest.approx(one * factor**4)


@given(limit=st.floats(1, 20_000))
@settings(deadline=None)
def test_the_largest_side_is_the_last_that_fits(limit):
    config = replace(network_config("base"), attention_limit_mb=limit)
    side = config.largest_side_px()
    if side > 32:
        config.check_image_hw((side, side))
    with pytest.raises(InputError):
        config.check_image_hw((side + 32, side + 32))


def test_configs_that_cannot_be_built_are_refused():
    with pytest.raises(UsageError, match="Did you mean 'tiny'"):
        network_config("tyny")
    for change in ({"hidden": 90}, {"queries": 99}, {"token_levels": (3,)}, {"classes": 0}):
        with pytest.raises(UsageError):
            NetworkConfig(**{f: getattr(network_config("tiny"), f) for f in NetworkConfig.__slots__} | change)
