"""A file is delivered only when it is the network: all heads pass, and a sabotage between export and check is seen."""

import dataclasses
import re

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from adapters._shared.synthetic import make_image
from adapters.yolov10 import YoloV10Adapter, deployed
from adapters.yolov10.tests.spread import save_spread, spread_adapter
from adapters.yolov10.validate import TorchReference
from bench.deployment.export import check_file, export_file
from bench.deployment.options import ExportOptions
from bench.errors import Unsupported
from bench.runner_base import feed_key

pytest.importorskip("onnxruntime", reason="the files are run")
IMAGE_HW = (64, 96)


def photographs(count=3):
    """Grey-level noise of another size than the input, so that it is letterboxed."""
    images = [make_image(f"photo {i}", (1, 3, 50, 90))[0] for i in range(count)]
    return [(image.transpose(1, 2, 0) * 255).astype(np.uint8) for image in images]


class Remembering(TorchReference):
    """Computes the same feeds once."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = {}

    def outputs(self, feeds, precision):
        key = feed_key(feeds), precision
        if key not in self.seen:
            self.seen[key] = super().outputs(feeds, precision)
        return self.seen[key]


class Remembered(YoloV10Adapter):
    """The adapter, with one reference per file."""

    def __init__(self, *args):
        super().__init__(*args)
        self.references = {}

    def deployment_reference(self, weights, options):
        key = weights, options
        if key not in self.references:
            self.references[key] = Remembering(self, weights, options)
        return self.references[key]


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
    plain = spread_adapter(IMAGE_HW)
    return Remembered(plain.spec, plain.variant)


def options_of(head, **changes):
    limits = {"conf": 0.3, "iou": 0.5, "max_detections": 50}
    return ExportOptions(**{"head": head, "image_hw": IMAGE_HW, **limits, **changes})


@pytest.fixture(scope="module")
def exported(adapter, weights, tmp_path_factory):
    """Head and precision -> path, document, details; made once."""
    made = {}

    def get(head, half=False):
        if (head, half) not in made:
            path = tmp_path_factory.mktemp("file") / "m.onnx"
            made[head, half] = path, *export_file(adapter, weights, path, options_of(head, half=half))
        return made[head, half]

    return get


def check(adapter, weights, path, head, document, details, half=False, **changes):
    options = options_of(head, half=half, **changes)
    return check_file(adapter, weights, path, options, document, details, images={"photos": photographs()})


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("head", tuple(deployed.HEADS))
def test_every_head_is_validated_at_both_precisions(adapter, weights, exported, head, half):
    path, document, details = exported(head, half)
    found = check(adapter, weights, path, head, document, details, half)
    assert found["first_failure"] is None
    assert found["passed"] is True
    checks = found["checks"][1:]
    kinds = {"synthetic", "photos"} | ({"random boxes"} if head in deployed.SELECTING else set())
    assert {(c["images"], c["batch"]) for c in checks} == {(kind, batch) for kind in kinds for batch in (1, 4, 8)}
    dense = [c for c in checks if c["tensor"] not in ("selection", "detections")]
    assert all(c["tolerance"] == (1e-2 if half else 1e-3) for c in dense)
    assert all(0 < c["rms"] <= c["budget"] for c in dense)
    assert {c["unit"] for c in dense} == {"share of the longer side", "score"}
    tensors = {c["tensor"] for c in checks}
    assert ({"selection", "detections"} <= tensors) == (head in deployed.SELECTING)
    assert found["devices"]["cpu"]["provider"] == "CPUExecutionProvider"
    assert found["notes"] == ["photos: 3 images, repeated to fill a batch of 8"]
    if head in deployed.SELECTING:
        assert all(int(c["detail"].split()[0]) > 10 for c in checks if c["tensor"] in ("selection", "detections"))


def test_images_without_any_detection_are_compared_too(adapter, weights, tmp_path):
    options = options_of("nms", conf=0.999)
    document, details = export_file(adapter, weights, tmp_path / "m.onnx", options)
    found = check_file(adapter, weights, tmp_path / "m.onnx", options, document, details, images={})
    assert found["passed"] is True
    empty = [c["detail"] for c in found["checks"] if c["images"] == "synthetic" and c["tensor"] == "selection"]
    assert empty == ["0 rows"] * 3


def damaged(path, tmp_path, change):
    model = onnx.load(str(path))
    change(model)
    out = tmp_path / "damaged.onnx"
    onnx.save(model, str(out))
    return out


def scale_weight(factor):
    """One convolution is off by a factor."""

    def change(model):
        tensor = next(t for t in model.graph.initializer if len(t.dims) == 4 and t.dims[1] > 8)
        values = numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return change


def set_constant(name, value):
    def change(model):
        tensor = next(t for t in model.graph.initializer if t.name == f"/select/{name}")
        old = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.full_like(old, value), tensor.name))

    return change


def break_weight(model):
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4 and t.dims[1] > 8)
    values = numpy_helper.to_array(tensor).copy()
    values[0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def swap_corners(model):
    node = next(n for n in model.graph.node if n.name.startswith("/select/Concat"))
    node.input[0], node.input[1] = node.input[1], node.input[0]


def rename_output(model):
    old, model.graph.output[0].name = model.graph.output[0].name, "boxes"
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == old:
                node.output[index] = "boxes"


@pytest.mark.parametrize(
    ("head", "change", "tensor", "detail"),
    [
        (
            "dense",
            scale_weight(2),
            "boxes_cxcywh",
            r"boxes_cxcywh\[0, \d+, \d+\]: expected -?[\d.]+, found -?[\d.]+ \(",
        ),
        ("raw", scale_weight(2), "distances", r"distances\[0, \d+, \d+\]: expected [\d.]+, found [\d.]+"),
        # within the tolerance of 1e-3 of the side, and far beyond what float32 does to this network
        ("dense", scale_weight(1.02), "boxes_cxcywh", r"exceeds the budget.*worst image 0 at \(0, \d, \d+\): exp"),
        ("dense", break_weight, "boxes_cxcywh", "found nan"),
        ("topk", scale_weight(2), "boxes_cxcywh", r"boxes_cxcywh\[0"),
        ("nms", scale_weight(2), "boxes_cxcywh", r"boxes_cxcywh\[0"),
        ("nms", set_constant("iou", 0.6), "selection", r"image 0(: expected \d+ detections|, row \d+)"),
        # lists of images are full here: the boxes made to try the selection show it
        ("nms", set_constant("conf", 0.31), "selection", r"image 0: expected \d+ detections, found \d+"),
        ("nms", set_constant("iou", 0.51), "selection", "image 0"),
        ("nms", swap_corners, "selection", "image 0"),
        ("topk", swap_corners, "selection", r"image 0, row 0: box expected"),
        ("topk", rename_output, "outputs", r"expected detections float32 \(batch, 50, 6\), found boxes float32"),
    ],
)
def test_a_file_damaged_after_the_export_is_refused_with_the_first_difference(
    adapter, weights, exported, tmp_path, head, change, tensor, detail
):
    path, document, details = exported(head)
    found = check(adapter, weights, damaged(path, tmp_path, change), head, document, details)
    assert found["passed"] is False
    assert found["first_failure"]["tensor"] == tensor
    assert re.search(detail, found["first_failure"]["detail"])


def test_a_file_that_is_truncated_or_none_at_all_is_refused(adapter, weights, exported, tmp_path):
    path, document, details = exported("dense")
    for name, content in (("cut.onnx", path.read_bytes()[:100_000]), ("text.onnx", b"hello")):
        (tmp_path / name).write_bytes(content)
        found = check(adapter, weights, tmp_path / name, "dense", document, details)
        assert found["passed"] is False
        assert found["first_failure"]["tensor"] == "file"


def test_the_weights_of_another_network_are_not_taken_for_these(adapter, exported, tmp_path):
    from adapters.yolov10.model import YoloV10

    torch.save(YoloV10("n", 80).state_dict(), tmp_path / "other.pt")
    path, document, details = exported("topk")
    assert check(adapter, tmp_path / "other.pt", path, "topk", document, details)["passed"] is False


def test_an_fp16_file_given_as_fp32_misses_the_budget_or_the_tolerance(adapter, weights, exported):
    path, document, details = exported("nms", True)
    found = check(adapter, weights, path, "nms", document, details, half=False)
    assert found["first_failure"]["tensor"] in ("boxes_cxcywh", "scores")


def test_without_fp16_in_torch_the_tolerance_remains_and_a_note_says_so(adapter, weights, exported, monkeypatch):
    real = Remembering.outputs

    def refuse(self, feeds, precision):
        if precision == "fp16":
            raise Unsupported("torch cannot compute fp16 on this CPU")
        return real(self, feeds, precision)

    monkeypatch.setattr(Remembering, "outputs", refuse)
    path, document, details = exported("raw", True)
    found = check(adapter, weights, path, "raw", document, details, half=True)
    assert found["passed"] is True
    assert any("no budget relative to the golden" in note for note in found["notes"])
    assert {c["budget"] for c in found["checks"]} == {None}


def test_a_kernel_that_torch_lacks_is_said_and_any_other_failure_is_not_hidden(adapter, weights):
    reference = TorchReference(adapter, weights, options_of("dense"))

    def fail(message):
        def forward(images):
            raise RuntimeError(message)

        return forward

    feeds = reference.synthetic(1)
    reference._cast["fp16"] = fail("slow_conv2d_cpu not implemented for 'Half'")
    with pytest.raises(Unsupported, match="cannot compute fp16 on this CPU: slow_conv2d_cpu"):
        reference.outputs(feeds, "fp16")
    reference._cast["fp16"] = fail("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        reference.outputs(feeds, "fp16")


def test_the_document_holds_what_a_reader_needs(exported, weights):
    import json

    from bench.files import sha256_file
    from bench.schema import validate

    path, document, _ = exported("nms", True)
    validate({**document, "created_at": "2026-01-01T00:00:00+00:00"}, "export_meta", where="test")
    assert document["thresholds"] == {"conf": 0.3, "iou": 0.5, "max_detections": 50}
    assert document["checkpoint"]["sha256"] == sha256_file(weights)
    assert document["file"]["sha256"] == sha256_file(path)
    assert document["image_size"] == [64, 96]
    assert document["preprocessing"]["input_size"] == [64, 96]
    assert len(document["class_names"]) == 80
    assert [o["name"] for o in document["outputs"]] == ["detections", "num_dets"]
    (entry,) = onnx.load(str(path)).metadata_props
    assert entry.key == "parity"
    inside = json.loads(entry.value)
    assert inside == {k: v for k, v in document.items() if k not in ("file", "created_at", "validation")}
    assert str(weights.parent) not in entry.value, "no folder of the maker's machine"


def test_an_fp16_file_is_scanned_for_overflow_on_what_it_will_see(adapter, weights, tmp_path):
    options = dataclasses.replace(options_of("raw"), half=True)
    document, _ = export_file(adapter, weights, tmp_path / "m.onnx", options, images=photographs(2))
    assert document["recipe"]["half"]["overflow_scan"]["images"] == 6
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]
