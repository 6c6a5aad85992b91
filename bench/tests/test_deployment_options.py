"""What may be typed about a file for deployment, and what is refused with the option's name."""

from types import SimpleNamespace

import pytest

from bench.deployment.options import ExportOptions, as_deployable, choose, read_image_size
from bench.errors import UsageError

HEADS = {"dense": (), "topk": ("max_detections",), "nms": ("conf", "iou", "max_detections")}


def model(**changes):
    given = {
        "spec": SimpleNamespace(name="fake", image_hw=(320, 256)),
        "export_heads": HEADS,
        "image_multiple": 32,
        "export_deployment": lambda: None,
        "deployment_reference": lambda: None,
    }
    return SimpleNamespace(**given, **changes)


def chosen(**typed):
    nothing = dict.fromkeys(("head", "image_size", "opset", "conf", "iou", "max_detections"))
    return choose(model(), **{**nothing, "half": False, **typed})


def test_nothing_typed_is_the_first_head_at_the_models_own_size():
    options = chosen()
    assert (options.head, options.image_hw, options.opset, options.precision) == ("dense", (320, 256), 18, "fp32")


def test_what_is_typed_is_taken():
    options = chosen(head="nms", image_size="384,640", opset=20, half=True, conf=0.0, iou=1.0, max_detections=50)
    assert options == ExportOptions(
        head="nms", image_hw=(384, 640), opset=20, half=True, conf=0.0, iou=1.0, max_detections=50
    )
    assert options.precision == "fp16"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"head": "nmss"}, "--head nmss: fake has no such head. Did you mean 'nms'?"),
        ({"head": "x"}, "Known: dense, nms, topk"),
        ({"head": "topk", "iou": 0.5}, "--iou: the head 'topk' does not use it. Leave it out, or type --head nms"),
        ({"conf": 0.5}, "--conf: the head 'dense' does not use it"),
        ({"max_detections": 5}, "--max-dets: the head 'dense' does not use it.*type --head topk or nms"),
        ({"head": "nms", "conf": 1.0}, "--conf 1: a score threshold lies in 0..1"),
        ({"head": "nms", "conf": -0.1}, "--conf -0.1"),
        ({"head": "nms", "conf": float("nan")}, "--conf nan"),
        ({"head": "nms", "iou": 1.1}, "--iou 1.1: an overlap lies in 0..1"),
        ({"head": "nms", "max_detections": 0}, "--max-dets 0: give at least 1"),
        ({"opset": 12}, "--opset 12: too old. Type --opset 13"),
        ({"image_size": "0"}, "--imgsz 0: sides must be multiples of 32. The nearest: --imgsz 32"),
        ({"image_size": "-64"}, "--imgsz -64: .*nearest: --imgsz 32"),
        ({"image_size": "650"}, "--imgsz 650: .*The nearest: --imgsz 640"),
        ({"image_size": "380,640"}, "--imgsz 380,640: .*The nearest: --imgsz 384,640"),
        ({"image_size": "large"}, "--imgsz large: give one side, or height,width"),
        ({"image_size": "1,2,3"}, "--imgsz 1,2,3: give one side"),
        ({"image_size": ""}, "give one side"),
        ({"image_size": "320000"}, "at most 16384 pixels"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_with_the_option(typed, message):
    with pytest.raises(UsageError, match=message):
        chosen(**typed)


def test_a_side_alone_is_square_and_two_are_height_and_width():
    assert read_image_size("640", 32) == (640, 640)
    assert read_image_size(" 384, 640 ", 32) == (384, 640)
    assert read_image_size("384x640", 32) == (384, 640)
    assert read_image_size("56,112", 56) == (56, 112)


def test_a_model_without_deployment_files_is_refused_with_the_options_to_leave_out():
    with pytest.raises(UsageError, match=r"fake has one file per precision.*Leave out --head"):
        as_deployable(SimpleNamespace(spec=SimpleNamespace(name="fake")))
    assert as_deployable(model())
