from __future__ import annotations

import dataclasses

import onnx
import pytest

from bench.errors import InputError
from bench.precision.onnxfile import artifact_sha256, check_against, inspect
from bench.tests.tiny_onnx import SPEC, save_tiny, tiny_model
from bench.types import TensorSpec


@pytest.fixture
def path(tmp_path):
    return save_tiny(tmp_path / "model.onnx")


@pytest.fixture
def outside(tmp_path):
    path = tmp_path / "outside.onnx"
    onnx.save(tiny_model(), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def changed(**changes):
    (images,) = SPEC.inputs
    return dataclasses.replace(SPEC, inputs=(dataclasses.replace(images, **changes),))


def test_inputs_and_outputs_keep_their_symbolic_batch(path):
    inputs, outputs = inspect(path)
    assert inputs == SPEC.inputs
    assert outputs == SPEC.outputs


def test_a_file_of_the_model_passes(path):
    assert check_against(SPEC, path) == (SPEC.inputs, SPEC.outputs)


def test_a_fixed_batch_passes_and_is_reported(tmp_path):
    inputs, _ = check_against(SPEC, save_tiny(tmp_path / "static.onnx", batch=1))
    assert inputs[0].shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "image"}, r"input 'image' is not there; input 'images' is unknown\. Did you mean 'image'\?"),
        ({"dtype": "uint8"}, "input 'images' is float32 instead of uint8"),
        ({"shape": ("batch", 3, 64)}, "has rank 4 instead of 3"),
        ({"shape": ("batch", 3, 8, 16)}, r"\(batch, 3, 8, 8\) should be images float32 \(batch, 3, 8, 16\)"),
    ],
)
def test_a_file_of_another_model_is_refused_with_the_difference(path, changes, message):
    with pytest.raises(InputError, match=rf"model\.onnx is not a tiny: .*{message}"):
        check_against(changed(**changes), path)


def test_all_differences_are_listed_at_once(path):
    spec = dataclasses.replace(
        changed(dtype="uint8"), outputs=(TensorSpec(name="boxes", shape=("batch", 4), dtype="float32"),)
    )
    with pytest.raises(InputError, match=r"uint8; output 'boxes' is not there; output 'cells' is unknown"):
        check_against(spec, path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.onnx: no such file"):
        inspect(tmp_path / "absent.onnx")
    with pytest.raises(InputError, match="no such file"):
        inspect(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"model\.onnx: (not a complete ONNX file|holds no ONNX graph)"):
        inspect(path)


def test_something_else_is_no_onnx_file(path):
    path.write_bytes(b"GIF89a" * 100)
    with pytest.raises(InputError, match="not a complete ONNX file"):
        inspect(path)


def test_missing_external_data_is_named(outside):
    assert inspect(outside)[0] == SPEC.inputs
    (outside.parent / "weights.bin").unlink()
    with pytest.raises(InputError, match=r"external data 'weights\.bin' is missing \(weights of 'stem\.weight'\)"):
        inspect(outside)


def test_short_external_data_is_named(outside):
    data = outside.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"'weights\.bin' has \d+ bytes, '.+' needs \d+"):
        inspect(outside)


def test_the_hash_covers_the_external_data(outside):
    before = artifact_sha256(outside)
    data = outside.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:-1] + b"\x01")
    assert artifact_sha256(outside) != before


def test_the_hash_of_a_self_contained_file_is_that_of_its_bytes(path):
    import hashlib

    assert artifact_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
