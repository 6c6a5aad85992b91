"""Files for deployment: outputs, sizes, opsets, and a selection that is numpy's, in fp16 too."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from adapters._shared.synthetic import make_image
from adapters.yolov10 import adapter as shipped
from adapters.yolov10 import deployed, process
from adapters.yolov10.export import export_deployment
from adapters.yolov10.nms import nms
from adapters.yolov10.tails import add_tail, readers
from adapters.yolov10.tests.spread import save_spread, spread_adapter
from adapters.yolov10.validate import TorchReference
from bench.deployment.options import ExportOptions
from bench.errors import InputError, UsageError
from bench.geometry import xyxy_from_cxcywh

onnxruntime = pytest.importorskip("onnxruntime", reason="the files are run")
HEADS = tuple(deployed.HEADS)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Two threads wait for each other when the machine is shared: 8 ms per convolution instead of .3."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_spread(tmp_path_factory.mktemp("weights") / "both.safetensors")


@pytest.fixture(scope="module")
def adapter():
    return spread_adapter()


def options_of(head, **changes):
    return ExportOptions(**{"head": head, "image_hw": (64, 96), "conf": 0.3, "iou": 0.5, **changes})


def session_of(model):
    content = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def outputs_of(session, feeds):
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def with_inner(path, selects_from):
    """A session whose further outputs are what the selection reads, named as in the reference."""
    model = onnx.load(str(path))
    nodes = {node.name: node for node in model.graph.node}
    for name, (node, index) in selects_from.items():
        inner = nodes[node].input[index]
        if inner != name:
            model.graph.node.append(helper.make_node("Identity", [inner], [name]))
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return session_of(model.SerializeToString())


def assert_same(found, expected):
    assert len(found.scores) == len(expected.scores)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(("head", "opset"), [*((head, 18) for head in HEADS), ("raw", 13), ("dense", 19), ("nms", 20)])
def test_every_head_gives_what_torch_gives_at_batch_one_and_four(tmp_path, adapter, weights, head, opset):
    options = options_of(head, opset=opset)
    made = export_deployment(adapter, weights, tmp_path / "m.onnx", options)
    stored = onnx.load(str(tmp_path / "m.onnx"))
    assert [entry.version for entry in stored.opset_import if entry.domain == ""] == [opset]
    session = session_of(tmp_path / "m.onnx")
    assert [v.name for v in session.get_outputs()] == [entry["name"] for entry in made["outputs"]]
    assert [v.shape for v in session.get_outputs()] == [entry["shape"] for entry in made["outputs"]]
    assert session.get_inputs()[0].shape == ["batch", 3, 64, 96]
    reference = TorchReference(adapter, weights, options)
    for batch in (1, 4):
        feeds = {"images": make_image("export", (batch, 3, 64, 96))}
        found, expected = outputs_of(session, feeds), reference.outputs(feeds, "fp32")
        if head in deployed.SELECTING:
            selected = reference.select(expected)
            assert all(len(p.scores) > 20 for p in selected), "the test would compare nothing"
            for one, other in zip(reference.read(found), selected, strict=True):
                np.testing.assert_array_equal(one.labels, other.labels)
                np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
                np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=1e-3)
        else:
            for name, value in expected.items():
                np.testing.assert_allclose(found[name], value, atol=1e-3)


def test_an_image_without_detections_gives_zeros_and_the_count_zero(tmp_path, adapter, weights):
    export_deployment(adapter, weights, tmp_path / "m.onnx", options_of("nms", conf=0.999))
    found = outputs_of(session_of(tmp_path / "m.onnx"), {"images": make_image("none", (3, 3, 64, 96))})
    assert found["num_dets"].tolist() == [0, 0, 0]
    assert found["num_dets"].dtype == np.int32
    assert not found["detections"].any()


def test_the_same_export_twice_is_the_same_file(tmp_path, adapter, weights):
    for name in ("one", "two"):
        export_deployment(adapter, weights, tmp_path / name, options_of("nms"))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("opset", [21, 99])
def test_an_opset_that_the_exporter_does_not_write_is_refused(tmp_path, adapter, weights, opset):
    with pytest.raises(UsageError, match=f"--opset {opset}: this exporter writes 13 to 20"):
        export_deployment(adapter, weights, tmp_path / "m.onnx", options_of("raw", opset=opset))


def test_the_shipped_weights_have_no_nms_head_and_say_so(tmp_path):
    with pytest.raises(InputError, match=r"no one-to-many head.*best\.pt"):
        export_deployment(shipped, shipped.spec.default_weights, tmp_path / "m.onnx", options_of("nms"))


# --- the selection alone ---------------------------------------------------------------------------------------------


def tail_alone(options, anchors, classes):
    """A graph of the selection only: boxes and scores are its inputs."""
    shapes = {"boxes_cxcywh": ["batch", 4, anchors], "scores": ["batch", classes, anchors]}
    info = [helper.make_tensor_value_info(f"{n}_in", TensorProto.FLOAT, s) for n, s in shapes.items()]
    out = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    nodes = [helper.make_node("Identity", [f"{n}_in"], [n], name=f"/in/{n}") for n in shapes]
    opset = [helper.make_opsetid("", options.opset)]
    dense = helper.make_model(helper.make_graph(nodes, "dense", info, out), opset_imports=opset, ir_version=8)
    return add_tail(dense, options, anchors, classes)


def crowd(seed, anchors, classes, *, scale_px=2000.0, batch=2):
    """Dense overlaps at large coordinates, with equal boxes and equal scores among them."""
    rng = np.random.default_rng(seed)
    groups = rng.uniform(scale_px / 2, scale_px, (batch, 2, max(anchors // 6, 1)))
    which = rng.integers(0, groups.shape[2], (batch, 1, anchors))
    centres = np.take_along_axis(groups, np.repeat(which, 2, 1), 2) + rng.integers(-6, 7, (batch, 2, anchors))
    sizes = rng.integers(8, 40, (batch, 2, anchors))
    scores = np.round(rng.random((batch, classes, anchors)), 2)
    return {
        "boxes_cxcywh_in": np.concatenate((centres, sizes), 1).astype(np.float32),
        "scores_in": scores.astype(np.float32),
    }


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(5, 1), (40, 3), (64, 80)]),
    st.sampled_from([(0.0, 0.5), (0.3, 0.7), (0.6, 0.45), (0.25, 0.0), (0.5, 1.0)]),
    st.sampled_from([3, 300]),
)
def test_the_graph_selects_what_plain_numpy_selects(seed, size, limits, rows):
    options = options_of("nms", conf=limits[0], iou=limits[1], max_detections=rows)
    feeds = crowd(seed, *size)
    found = deployed.read_rows(outputs_of(session_of(tail_alone(options, *size).SerializeToString()), feeds), size[1])
    for image, one in enumerate(found):
        corners = xyxy_from_cxcywh(feeds["boxes_cxcywh_in"][image].T)
        scores = feeds["scores_in"][image]
        assert_same(one, nms(corners, scores, conf=limits[0], iou=limits[1], max_detections=rows))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(5, 1), (40, 3), (64, 80)]), st.sampled_from([3, 40, 300]))
def test_the_best_rows_of_the_graph_are_those_of_plain_numpy(seed, size, rows):
    options = options_of("topk", max_detections=rows)
    feeds = crowd(seed, *size)
    found = outputs_of(session_of(tail_alone(options, *size).SerializeToString()), feeds)["detections"]
    for image in range(2):
        dense = feeds["boxes_cxcywh_in"][image], feeds["scores_in"][image]
        boxes, scores, labels = process.select(*dense, rows)
        count = len(scores)
        np.testing.assert_array_equal(found[image, :count, 4], scores)
        np.testing.assert_array_equal(found[image, :count, 5], labels)
        np.testing.assert_allclose(found[image, :count, :4], xyxy_from_cxcywh(boxes), atol=1e-3)
        assert not found[image, count:].any()


@pytest.mark.parametrize("head", deployed.SELECTING)
@pytest.mark.parametrize("opset", [13, 17, 18, 19, 20])
def test_the_selection_is_the_same_at_every_opset(head, opset):
    feeds = crowd(3, 40, 5)
    model = tail_alone(options_of(head, opset=opset), 40, 5)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    first = outputs_of(session_of(tail_alone(options_of(head), 40, 5).SerializeToString()), feeds)
    for name, value in outputs_of(session_of(model.SerializeToString()), feeds).items():
        np.testing.assert_array_equal(value, first[name])


@pytest.mark.parametrize("head", deployed.SELECTING)
@pytest.mark.parametrize("rows", [1, 7, 3000])
def test_any_number_of_rows_is_static_and_padded_with_zeros(head, rows):
    model = tail_alone(options_of(head, max_detections=rows, iou=1.0), 40, 5)
    found = outputs_of(session_of(model.SerializeToString()), crowd(4, 40, 5))
    assert found["detections"].shape == (2, rows, 6)
    for image, prediction in enumerate(deployed.read_rows(found, 5)):
        assert 0 < len(prediction.scores) <= rows
        assert not found["detections"][image, min(len(prediction.scores), 40 * 5) :].any()


# --- fp16 ------------------------------------------------------------------------------------------------------------


def as_half(path, made):
    """The fp16 form of a file, as `parity export --half` makes it."""
    from bench.precision.fp16 import convert_fp16

    out = path.with_suffix(".fp16.onnx")
    recipe = convert_fp16(path, out, exclude=made["float_nodes"])
    assert recipe["compute_nodes"]["fp16"] > 60
    return out


@pytest.mark.parametrize("head", deployed.SELECTING)
def test_an_fp16_file_selects_exactly_what_numpy_selects_from_its_own_tensors(tmp_path, adapter, weights, head):
    # 80 classes, coordinates up to 1280 px (fp16 steps of 1 px there), some hundred candidates that overlap
    options = options_of(head, image_hw=(32, 1280), half=True, conf=0.25, iou=0.45)
    made = export_deployment(adapter, weights, tmp_path / "m.onnx", options)
    session = with_inner(as_half(tmp_path / "m.onnx", made), made["selects_from"])
    feeds = {"images": make_image("half", (2, 3, 32, 1280))}
    found = outputs_of(session, feeds)
    reference = TorchReference(adapter, weights, options)
    dense = {name: found[name] for name in deployed.DENSE}
    far = 0
    for one, other in zip(reference.read(found), reference.select(dense), strict=True):
        assert len(one.scores) > 100
        assert len(set(one.labels.tolist())) >= 3
        assert_same(one, other)
        far += int((one.boxes_xyxy[:, 0] > 1024).sum())
    assert far > 10
    expected = reference.outputs(feeds, "fp32")
    # decoded in float32: edges do not move by fp16 steps, which are 1 px at 1280
    assert np.abs(found["boxes_cxcywh"] - expected["boxes_cxcywh"]).max() < 0.2


def test_what_reads_the_selection_is_named_by_node(adapter, weights, tmp_path):
    made = export_deployment(adapter, weights, tmp_path / "m.onnx", options_of("nms"))
    assert set(made["selects_from"]) == set(deployed.DENSE)
    assert made["selects_from"] == readers(onnx.load(str(tmp_path / "m.onnx")))
    assert all(node.startswith("/select/") for node, _ in made["selects_from"].values())


# --- AP --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_ap_of_raw_and_topk_files_is_the_ap_of_torch_at_the_score_floor(tmp_path):
    from bench.fixtures import category_ids, read_image_rgb, resolve
    from bench.scoring import from_predictions, match

    spec = shipped.spec
    images = resolve("shapes").take(40)
    network, sessions = shipped.build(spec.default_weights), {}
    for head in ("raw", "topk"):
        options = ExportOptions(head=head, image_hw=spec.image_hw)
        export_deployment(shipped, spec.default_weights, tmp_path / head, options)
        sessions[head] = session_of(tmp_path / head)
    limits = {"max_detections": spec.max_detections, "score_floor": spec.score_floor}
    assert spec.score_floor == 0.001
    found = {"torch": {}, "raw": {}, "topk": {}}
    for sample in images.samples:
        feeds, meta = shipped.preprocess(read_image_rgb(sample.path, (sample.height, sample.width)))
        for head, session in sessions.items():
            outputs = outputs_of(session, feeds)
            found[head][sample.image_id] = deployed.postprocess(
                head, outputs, meta, image_hw=spec.image_hw, classes=len(spec.class_names), **limits
            )
        with torch.inference_mode():
            boxes, scores = network(torch.from_numpy(feeds["images"]))
        dense = {"boxes_cxcywh": boxes.numpy(), "scores": scores.numpy()}
        found["torch"][sample.image_id] = process.postprocess(dense, meta, **limits)
    labels = category_ids(spec.class_names, images)
    stats = {name: match(images, from_predictions(p, labels)).stats for name, p in found.items()}
    assert stats["torch"]["AP"] > 0.5
    for name, value in stats["torch"].items():
        if value is not None:
            assert stats["raw"][name] == pytest.approx(value, abs=1e-6), name
            assert stats["topk"][name] == pytest.approx(value, abs=1e-6), name
