"""A file for deployment is delivered only when it is the network: every output is compared, and a sabotage is seen."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

from adapters._shared.synthetic import make_image
from adapters.rtdetr_pose import RtDetrPoseAdapter, deployed, make_spec
from adapters.rtdetr_pose.config import NETWORKS, network_config
from adapters.rtdetr_pose.model import RtDetrPose, spread
from adapters.rtdetr_pose.names import SHAPES_NAMES
from adapters.rtdetr_pose.validate import TorchReference
from bench.deployment.export import check_file, export_file
from bench.deployment.options import ExportOptions, as_deployable
from bench.errors import ArtifactError, InputError, Unsupported, UsageError
from bench.schema import validate

pytest.importorskip("onnxruntime", reason="the files are run")
IMAGE_HW = (64, 96)


def adapter_of(name):
    """The registered model at 64 pixels: the size of a file is an option of its own."""
    config = network_config(name, classes=len(SHAPES_NAMES))
    spec = make_spec("rtdetr_pose", config, SHAPES_NAMES, image_hw=(64, 64), fixtures="shapes")
    return RtDetrPoseAdapter(spec, config)


def options_of(**changes):
    return ExportOptions(**{"head": "dense", "image_hw": IMAGE_HW, "opset": 17, **changes})


def photographs(count=2):
    """Smooth noise of another size than the input, so that it is resized."""
    images = [make_image(f"photo {i}", (1, 3, 50, 90))[0] for i in range(count)]
    return [(image.transpose(1, 2, 0) * 255).astype(np.uint8) for image in images]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Name of a network -> weights whose queries differ, as after training."""
    made = {}

    def get(name):
        if name not in made:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                network = RtDetrPose(network_config(name, classes=len(SHAPES_NAMES)))
                spread(network)
            made[name] = tmp_path_factory.mktemp("weights") / f"{name}.safetensors"
            save_file(network.state_dict(), made[name])
        return made[name]

    return get


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    """Options -> path, document, details; made once."""
    made = {}

    def get(name="tiny", **changes):
        key = name, *sorted(changes.items())
        if key not in made:
            out = tmp_path_factory.mktemp("file") / "m.onnx"
            options = options_of(**changes)
            made[key] = out, *export_file(adapter_of(name), weights(name), out, options, images=photographs())
        return made[key]

    return get


def checked(exported, weights, path=None, *, name="tiny", document=None, **changes):
    own, described, details = exported(name, **changes)
    return check_file(
        adapter_of(name), weights(name), path or own, options_of(**changes), document or described, details,
        images={"photos": photographs()},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes"),
    [("tiny", {}), ("tiny", {"opset": 18}), ("tiny", {"half": True}), ("base", {}), ("base", {"half": True})],
)
def test_a_file_is_the_network_at_every_batch_in_every_output(exported, weights, name, changes):
    found = checked(exported, weights, name=name, **changes)
    assert found["passed"], found["first_failure"]
    names = set(adapter_of(name).config.output_names)
    compared = {(c["images"], c["batch"], c["tensor"]) for c in found["checks"] if c["device"] == "cpu"}
    assert compared == {(images, batch, n) for images in ("synthetic", "photos") for batch in (1, 4, 8) for n in names}
    assert all(c["budget"] is not None for c in found["checks"] if c["batch"])


def test_the_document_says_what_the_file_is(exported):
    path, document, details = exported()
    validate({**document, "created_at": "2026-01-01T00:00:00+00:00"}, "export_meta", where="test")
    assert (document["head"], document["opset"], document["image_size"]) == ("dense", 17, [64, 96])
    assert (document["thresholds"], details["selects_from"]) == ({}, {})
    assert document["inputs"][0]["shape"] == ["batch", 3, 64, 96]
    assert [o["name"] for o in document["outputs"]] == list(adapter_of("tiny").config.output_names)
    assert "background last" in document["outputs"][0]["convention"]
    assert document["preprocessing"]["method"] == "resize"
    assert document["recipe"]["check"]["batches"] == [1, 4]
    model = onnx.load(str(path))
    assert next(o.version for o in model.opset_import if not o.domain) == 17
    assert not {n.op_type for n in model.graph.node} & {"GridSample", "TopK"}


@pytest.mark.parametrize("part", ["head.cls", "head.rot6d", "head.log_z", "keypoint_head", "k_head", "offset_head"])
def test_a_file_with_one_damaged_head_is_refused_by_the_name_of_its_output(exported, weights, tmp_path, part):
    path, document, _ = exported()
    model = onnx.load(str(path))
    tensor = next(t for t in model.graph.initializer if t.name.startswith(part) and t.name.endswith("bias"))
    values = numpy_helper.to_array(tensor).copy()
    values[0] += 0.05
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, str(tmp_path / "m.onnx"))
    found = checked(exported, weights, tmp_path / "m.onnx", document=document)
    names = {"head.cls": "logits", "keypoint_head": "keypoints", "k_head": "k_delta", "offset_head": "offsets"}
    assert {c["tensor"] for c in found["checks"] if not c["passed"]} == {names.get(part, part.removeprefix("head."))}


def test_a_graph_that_is_not_the_network_is_not_even_described(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("adapters.rtdetr_pose.export.RELATIVE_TOLERANCE", -1.0)
    with pytest.raises(ArtifactError, match="differs from torch"):
        export_file(adapter_of("tiny"), weights("tiny"), tmp_path / "m.onnx", options_of())


@pytest.mark.parametrize("opset", [16, 21])
def test_an_opset_that_the_exporter_does_not_write_is_refused(weights, tmp_path, opset):
    with pytest.raises(UsageError, match=rf"--opset {opset}.*17 to 20"):
        export_file(adapter_of("tiny"), weights("tiny"), tmp_path / "m.onnx", options_of(opset=opset))
    assert not list(tmp_path.iterdir())


def test_a_size_whose_attention_does_not_fit_is_refused_before_anything_is_written(weights, tmp_path):
    with pytest.raises(InputError, match="attention needs"):
        export_file(adapter_of("tiny"), weights("tiny"), tmp_path / "m.onnx", options_of(image_hw=(4096, 4096)))
    assert not list(tmp_path.iterdir())


def test_every_output_of_every_network_has_a_convention_and_a_unit():
    assert deployed.CONVENTIONS.keys() == deployed.UNITS.keys()
    for config in NETWORKS.values():
        full = dataclasses.replace(config, keypoints=17, log_sigma=True)
        assert set(full.output_names) <= deployed.UNITS.keys()


def test_units_are_what_a_person_reads_and_a_broken_number_stays_broken():
    rng = np.random.default_rng(0)
    outputs = {"logits": rng.normal(size=(2, 3, 9)), "rot6d": rng.normal(size=(2, 3, 6)),
               "bbox": rng.normal(size=(2, 3, 4)), "log_z": rng.normal(size=(2, 3, 1))}  # fmt: skip
    values = {name: value for name, (_, value) in deployed.in_units(outputs).items()}
    whole = np.exp(outputs["logits"])
    np.testing.assert_allclose(values["logits"], (whole / whole.sum(2, keepdims=True))[..., :8], atol=1e-6)
    rows = values["rot6d"].reshape(2, 3, 2, 3)
    np.testing.assert_allclose(rows @ rows.swapaxes(2, 3), np.broadcast_to(np.eye(2), (2, 3, 2, 2)), atol=1e-5)
    np.testing.assert_allclose(values["bbox"], 1 / (1 + np.exp(-outputs["bbox"])))
    np.testing.assert_array_equal(values["log_z"], outputs["log_z"])
    for name, value in outputs.items():
        for bad in (np.nan, np.inf, -np.inf):
            broken = value.copy()
            broken[1, 2, 0] = bad
            seen = deployed.in_units({**outputs, name: broken})[name][1]
            assert seen.ndim == value.ndim, "a difference is named by the index of the raw number"
            assert not np.isfinite(seen[1, 2]).all(), (name, bad)
            assert np.isfinite(seen[0]).all()


def test_nothing_is_selected_and_the_reference_says_so(weights):
    model = as_deployable(adapter_of("tiny"))
    assert list(model.export_heads) == ["dense"]
    reference = TorchReference(model, weights("tiny"), options_of())
    for asked in (reference.select, reference.read):
        with pytest.raises(Unsupported, match="raw outputs"):
            asked({})


def outputs_with(scores):
    """Raw outputs of one image of queries with these best scores."""
    logits = np.zeros((1, len(scores), 3))
    logits[0, :, 0] = np.log(np.array(scores) / (1 - np.array(scores)) + 0)
    logits[0, :, 1] = -50
    shapes = {"bbox": 4, "log_z": 1, "rot6d": 6, "offsets": 2, "keypoints": 4}
    per_query = {name: np.zeros((1, len(scores), width)) for name, width in shapes.items()}
    return {"logits": logits, **per_query, "k_delta": np.zeros((1, 4))}


def test_poses_say_something_where_torch_may_see_an_object():
    outputs = outputs_with([0.9, 0.04, 0.06, 1e-4])
    found = deployed.meant(outputs)
    assert set(found) == set(outputs) - {"logits", "k_delta"}
    for name, mask in found.items():
        assert mask.shape == outputs[name].shape
        assert mask[0].all(-1).tolist() == [True, False, True, False]
        assert mask[0].any(-1).tolist() == [True, False, True, False]


def test_where_no_query_may_have_an_object_all_are_compared():
    assert all(mask.all() for mask in deployed.meant(outputs_with([0.01, 1e-3])).values())
    broken = outputs_with([0.9, 0.01])
    broken["logits"][0, 1] = np.nan
    assert deployed.meant(broken)["rot6d"].all()
