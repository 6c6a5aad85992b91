"""FastestDet on 128 photographs: the stated AP through every fp32 route, and what each choice around it costs."""

from __future__ import annotations

import json
from functools import cache

import cv2
import numpy as np
import onnxruntime
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from adapters.examples.fastestdet import FastestDet, Recipe, adapter
from bench import precision
from bench.paths import data_dir
from bench.precision.widen import widen

WEIGHTS, PHOTOS, CALIBRATION = (data_dir() / name for name in ("fastestdet", "coco128-val", "coco128-train"))
pytestmark = pytest.mark.skipif(
    not (WEIGHTS.is_dir() and PHOTOS.is_dir()), reason=f"no fastestdet and coco128-val in {data_dir()}: set PARITY_DATA"
)
AP_TOLERANCE = 0.001
RECIPES = {
    "clipped": Recipe(clip_boxes=True),
    "class-agnostic-nms": Recipe(class_agnostic_nms=True),
    "pil-bilinear": Recipe(resize="pil-bilinear"),
    "rgb-input (wrong order)": Recipe(channel_order="rgb"),
    "conf-0.25": Recipe(score_floor=0.25),
    "no-cap": Recipe(max_detections=484),
}


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread():
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on two shared cores the second thread made this file 15 times slower
    yield
    torch.set_num_threads(threads)


@cache
def ground_truth():
    return COCO(str(PHOTOS / "annotations" / "instances.json"))


@cache
def photo(image_id):
    return cv2.imread(str(PHOTOS / "images" / ground_truth().imgs[image_id]["file_name"]))[..., ::-1]


@cache
def inputs(resize, channel_order):
    model = FastestDet(Recipe(resize=resize, channel_order=channel_order))
    return [(image_id, *model.preprocess(photo(image_id))) for image_id in sorted(ground_truth().imgs)]


def onnxruntime_route(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(["758"], feeds)[0]


def torch_route(path):
    import torch

    network = adapter.build(path)

    def infer(feeds):
        with torch.inference_mode():
            return network(torch.from_numpy(feeds["input.1"]))[0].numpy()

    return infer


def openvino_route(path):
    import openvino

    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "2"}
    compiled = openvino.Core().compile_model(path, "CPU", config)
    return lambda feeds: compiled(feeds["input.1"])[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "fastestdet.onnx"
    adapter.export(WEIGHTS / "FastestDet.pth", path)
    return path


@cache
def upstream_outputs(resize, channel_order):
    infer = onnxruntime_route(WEIGHTS / "FastestDet.onnx")
    return [(image_id, infer(feeds), meta) for image_id, feeds, meta in inputs(resize, channel_order)]


def stated(variant):
    measured = json.loads((WEIGHTS / "measured.json").read_text())["variants"][variant]
    return measured["stats"][0], measured["detections"]


def score(outputs, recipe=None):
    """COCO AP and number of detections over all photographs, from (image id, raw output, meta)."""
    model = FastestDet(recipe or Recipe())
    category_ids, rows = sorted(ground_truth().cats), []
    for image_id, output, meta in outputs:
        found = model.postprocess({"758": output}, meta)
        for box, value, label in zip(found.boxes_xyxy.astype(float), found.scores, found.labels, strict=True):
            rows.append((image_id, *box[:2], *(box[2:] - box[:2]), value, category_ids[label]))
    evaluation = COCOeval(ground_truth(), ground_truth().loadRes(np.array(rows)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0], len(rows)


@pytest.mark.parametrize(
    "route", ["upstream-onnxrt", "upstream-openvino", "pth-torch", "exported-onnxrt", "exported-openvino"]
)
def test_every_fp32_route_reproduces_the_stated_ap(route, request):
    source, runtime = route.split("-")
    path = {"upstream": WEIGHTS / "FastestDet.onnx", "pth": WEIGHTS / "FastestDet.pth"}.get(source)
    path = path or request.getfixturevalue("exported")
    infer = {"onnxrt": onnxruntime_route, "openvino": openvino_route, "torch": torch_route}[runtime](path)
    ap, _ = score((image_id, infer(feeds), meta) for image_id, feeds, meta in inputs("cv2-linear", "bgr"))
    assert stated("primary")[0] == pytest.approx(0.190670, abs=1e-6)
    assert ap == pytest.approx(0.190670, abs=AP_TOLERANCE)


@pytest.mark.parametrize("runtime", [onnxruntime_route, openvino_route])
@pytest.mark.parametrize("source", ["upstream", "exported"])
def test_the_fp16_artefact_keeps_the_ap(source, runtime, request, tmp_path):
    path = WEIGHTS / "FastestDet.onnx" if source == "upstream" else request.getfixturevalue("exported")
    first = inputs("cv2-linear", "bgr")[0][1]
    recipe = precision.make("fp16", path, tmp_path / "fp16.onnx", feeds=lambda: iter((first,)))
    assert recipe["compute_nodes"] == {"fp16": 70}
    infer = runtime(tmp_path / "fp16.onnx")
    ap, _ = score((image_id, infer(feeds), meta) for image_id, feeds, meta in inputs("cv2-linear", "bgr"))
    assert ap == pytest.approx(0.190670, abs=AP_TOLERANCE)


@pytest.mark.parametrize("source", ["upstream", "exported"])
def test_the_bf16_artefact_keeps_the_ap_in_its_widened_form(source, request, tmp_path):
    path = WEIGHTS / "FastestDet.onnx" if source == "upstream" else request.getfixturevalue("exported")
    options = {"feeds": lambda: iter(()), "float_nodes": adapter.spec.float_nodes}
    recipe = precision.make("bf16", path, tmp_path / "bf16.onnx", **options)
    assert recipe["compute_nodes"] == {"bf16": 63, "fp32": 7}
    widen(tmp_path / "bf16.onnx", tmp_path / "widened.onnx")
    infer = onnxruntime_route(tmp_path / "widened.onnx")
    ap, _ = score((image_id, infer(feeds), meta) for image_id, feeds, meta in inputs("cv2-linear", "bgr"))
    assert ap == pytest.approx(0.190670, abs=0.002)


@pytest.mark.skipif(not CALIBRATION.is_dir(), reason=f"no coco128-train in {data_dir()}: set PARITY_DATA")
@pytest.mark.slow
def test_the_int8_artefact_keeps_most_of_the_ap_in_both_runtimes(exported, tmp_path):
    photos = sorted((CALIBRATION / "images").glob("*.jpg"))[:40]
    recipe = precision.make(
        "int8", exported, tmp_path / "int8.onnx", float_nodes=adapter.spec.float_nodes,
        feeds=lambda: (adapter.preprocess(cv2.imread(str(path))[..., ::-1])[0] for path in photos),
    )  # fmt: skip
    assert recipe["calibration_images"] == len(photos) == 40
    assert len(recipe["float_nodes"]) == 14
    for runtime in (onnxruntime_route, openvino_route):
        infer = runtime(tmp_path / "int8.onnx")
        ap, _ = score((image_id, infer(feeds), meta) for image_id, feeds, meta in inputs("cv2-linear", "bgr"))
        assert 0.17 < ap < 0.2, runtime.__name__


@pytest.mark.parametrize("variant", RECIPES)
def test_each_choice_around_the_network_moves_ap_as_stated(variant):
    recipe = RECIPES[variant]
    ap, detections = score(upstream_outputs(recipe.resize, recipe.channel_order), recipe)
    expected_ap, expected_detections = stated(variant)
    assert ap == pytest.approx(expected_ap, abs=AP_TOLERANCE)
    assert detections == pytest.approx(expected_detections, rel=0.001)


def test_the_probe_image_gives_the_stated_numbers():
    feeds, meta = adapter.preprocess(photo(139))
    pixels = feeds["input.1"][0]
    assert pixels.mean() == pytest.approx(0.406707, abs=1e-5)
    np.testing.assert_allclose(pixels[:, 0, 0], [0.294118, 0.545098, 0.670588], atol=1e-5)
    np.testing.assert_allclose(pixels[:, 176, 176], [0.388235, 0.439216, 0.533333], atol=1e-5)
    for infer in (onnxruntime_route(WEIGHTS / "FastestDet.onnx"), torch_route(WEIGHTS / "FastestDet.pth")):
        output = infer(feeds)
        assert output.sum() == pytest.approx(-694.1221, abs=0.01)
        np.testing.assert_allclose(output[0, :5, 11, 11], [0.1149, 0.50444, 0.38244, -2.60615, -2.1851], atol=1e-4)
        assert output[0, 0, 11, 2] == output[0, 0].max() == pytest.approx(0.77502, abs=1e-4)
        found = adapter.postprocess({"758": output}, meta)
        np.testing.assert_allclose(found.scores[:3], [0.857272, 0.836633, 0.651470], atol=1e-4)
        assert [adapter.spec.class_names[label] for label in found.labels[:3]] == ["tv", "chair", "chair"]
        np.testing.assert_allclose(found.boxes_xyxy[0], [3.694, 166.836, 154.649, 275.332], atol=0.01)
