"""ONNX files read without the package onnx, held against what the package says."""

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from bench.errors import InputError
from bench.precision.onnxfile import artifact_sha256
from bench.tests.tiny_onnx import tiny_model
from bench.tests.trt_samples import half, quantised
from bench.trt.enginefile import onnx_sha256
from bench.trt.graphfile import read_graph_file


def saved(model, path, **options):
    onnx.save(model, str(path), **options)
    return path


def test_what_the_package_onnx_reads_is_read(tmp_path):
    found = read_graph_file(saved(tiny_model(opset=17), tmp_path / "m.onnx"))
    assert found.opset == 17
    assert found.inputs == (("images", ("batch", 3, 8, 8)),)
    assert found.operators == {"Conv": 3, "Relu": 2, "Resize": 1, "Sigmoid": 1}
    assert found.compute == {"fp32": 3}
    assert found.external == ()
    assert found.precision == "fp32"


def test_a_fixed_batch_is_a_number(tmp_path):
    assert read_graph_file(saved(tiny_model(batch=2), tmp_path / "m.onnx")).inputs == (("images", (2, 3, 8, 8)),)


def test_the_type_of_the_weights_is_the_precision(tmp_path):
    found = read_graph_file(saved(half(tiny_model()), tmp_path / "m.onnx"))
    assert (found.compute, found.precision) == ({"fp16": 3}, "fp16")


def test_operands_that_come_from_q_dq_are_int8(tmp_path):
    found = read_graph_file(saved(quantised(tiny_model()), tmp_path / "m.onnx"))
    assert found.compute == {"int8": 2, "fp32": 1}
    assert found.precision == "int8"


def test_quantised_weights_alone_compute_in_float(tmp_path):
    found = read_graph_file(saved(quantised(tiny_model(), activations=False), tmp_path / "m.onnx"))
    assert found.compute == {"fp32": 3}


def test_external_data_are_named_and_hashed_as_the_store_does(tmp_path):
    path = saved(
        tiny_model(), tmp_path / "m.onnx",
        save_as_external_data=True, all_tensors_to_one_file=True, location="m.onnx.data", size_threshold=0,
    )  # fmt: skip
    found = read_graph_file(path)
    assert found.external == ("m.onnx.data",)
    assert found.compute == {"fp32": 3}
    assert onnx_sha256(path, found.external) == artifact_sha256(path)
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(InputError, match=r"'m\.onnx\.data' is not beside it"):
        read_graph_file(path)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../b", "..\\secret", "C:\\secret", ""])
def test_external_data_outside_the_folder_are_refused(tmp_path, location):
    model = tiny_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="outside the folder"):
        read_graph_file(tmp_path / "m.onnx")


def test_a_truncated_file_is_bad_input_at_every_length(tmp_path):
    whole = tiny_model().SerializeToString()
    path = tmp_path / "m.onnx"
    model = tiny_model()
    del model.opset_import[:]
    after_graph = len(model.SerializeToString())  # protobuf has no end mark: cut there, it is a complete message
    for end in [*range(0, len(whole), max(1, len(whole) // 60)), after_graph, len(whole) - 1]:
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"m\.onnx: not a complete ONNX"):
            read_graph_file(path)


def test_a_truncated_graph_is_seen_when_the_opset_stands_before_it(tmp_path):
    """Two messages one after the other are their union: here the graph comes last, so that a cut leaves an opset."""
    model, rest = tiny_model(), onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    model.ClearField("opset_import")
    whole = rest.SerializeToString() + model.SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(whole)
    assert read_graph_file(path).operators["Conv"] == 3
    for missing in (1, 2, 7, 60, 200):
        path.write_bytes(whole[:-missing])
        with pytest.raises(InputError, match=r"ends after the file does"):
            read_graph_file(path)


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_either_read_or_bad_input(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError):  # nothing that short is a model
        read_graph_file(path)


def test_a_missing_file_says_what_to_give(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read \(No such file or directory\)\. Give the path of an \.onnx"):
        read_graph_file(tmp_path / "none.onnx")


def test_another_kind_of_file_is_named(tmp_path):
    path = tmp_path / "weights.onnx"
    path.write_text("<html>404</html>\n" * 20)
    with pytest.raises(InputError, match="ONNX"):
        read_graph_file(path)
