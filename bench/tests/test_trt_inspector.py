"""The inspector's JSON becomes layers with types. The texts are derived from documentation (see sample_inspector)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import ArtifactError
from bench.tests import sample_inspector as sample
from bench.trt.inspector import (
    Observed,
    kernel_precision,
    label_problem,
    layer_of_record,
    layer_record,
    observed_precision,
    parse_engine_information,
    type_word,
)

VERSIONS = [(sample.text_10, sample.layer_10), (sample.text_11, sample.layer_11)]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize(("text", "layer"), VERSIONS, ids=["10", "11"])
def test_the_type_of_a_layer_is_read_in_both_layouts(text, layer, precision):
    (found,) = parse_engine_information(text(layer("/stem/Conv", precision)))
    assert found.is_compute
    assert found.precision == precision
    assert found.inputs == (("fp32" if precision == "tf32" else precision),)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Row major linear FP16", "fp16"),
        ("Row major linear FP32 format (kLINEAR)", "fp32"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Two wide channel vectorized row major FP16 format", "fp16"),
        ("Row major linear BF16", "bf16"),
        ("Float", "fp32"),
        ("Half", "fp16"),
        ("BFloat16", "bf16"),
        ("Int8", "int8"),
        ("UInt8", "uint8"),
        ("FP8", "fp8"),
        ("Int32", "int32"),
        ("Bool", "bool"),
        ("N/A due to dynamic shapes", "unknown"),
        ("", "unknown"),
        ("Row major linear", "unknown"),
    ],
)
def test_words_of_the_inspector(words, expected):
    assert type_word(words) == expected


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (sample.INT8_KERNEL, "int8"),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_nchw", "int8"),
        (sample.FP16_KERNEL, "fp16"),
        (sample.TF32_KERNEL, "tf32"),
        ("cutlass_tensorop_s1688fprop_optimized_tf32_64x64_16x10_nhwc_align4", "tf32"),
        (sample.FP32_KERNEL, "fp32"),
        ("ampere_sgemm_64x32_sliced1x4_tn", "fp32"),
        ("sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64", "bf16"),
        ("", "unknown"),
        ("__myl_AddMul_0xabf16", "unknown"),
    ],
)
def test_operand_types_are_read_from_kernel_names(kernel, expected):
    assert kernel_precision(kernel) == expected


def test_an_engine_with_dynamic_shapes_is_read_from_weights_and_kernels():
    hidden = sample.TEXT_10["dynamic"]
    text = sample.text_10(
        sample.layer_10("a/Conv", "int8", shown=hidden, weights="Int8"),
        sample.layer_10("b/Conv", "fp16", shown=hidden),
        sample.layer_10("c/Conv", "fp16", shown=hidden, tactic=""),
    )
    assert [layer.precision for layer in parse_engine_information(text)] == ["int8", "fp16", "unknown"]


def test_weights_in_int8_with_activations_in_fp16_compute_in_fp16():
    (found,) = parse_engine_information(sample.text_10(sample.layer_10("a/Conv", "fp16", weights="Int8")))
    assert found.precision == "fp16"


def test_layers_that_move_data_do_not_count():
    text = sample.text_10(sample.reformat(), sample.reformat("copy"), sample.layer_10("a/Conv", "fp32"))
    assert observed_precision(parse_engine_information(text)) == Observed("fp32", {"fp32": 1}, 1.0)


@pytest.mark.parametrize(
    ("kind", "name", "tactic", "compute"),
    [
        ("gemm", "/attn/qkv/MatMul_myl0_4", "sm80_xmma_gemm_f16f16", True),
        ("kgen", "_gemm_mha_v2_myl0_4", "_gemm_mha_v2_0x1", True),
        ("kgen", "__myl_CastMulAdd_myl0_2", "__myl_CastMulAdd_0x1", False),
        ("kgen", "__myl_MoveConc", "__myl_MoveConc_0x2", False),
        ("CaskPooling", "/pool/MaxPool", "sm50_xmma_pooling_max_nhwc", False),
        ("CaskDeconvolutionV2", "/up/ConvTranspose", "", True),
        ("correlation", "/stem/Conv_myl3", "", True),
        ("PointWiseV2", "PWN(/act/Sigmoid)", "", False),
        ("Shuffle", "/Reshape_to_Conv", "", False),
    ],
)
def test_which_layers_carry_the_arithmetic(kind, name, tactic, compute):
    (found,) = parse_engine_information(sample.text_11(sample.layer_11(name, "fp16", kind=kind, tactic=tactic)))
    assert found.is_compute is compute


def test_most_compute_layers_decide():
    text = sample.text_10(
        *[sample.layer_10(f"{i}/Conv", "int8") for i in range(3)], sample.layer_10("head/Conv", "fp32")
    )
    assert observed_precision(parse_engine_information(text)) == Observed("int8", {"int8": 3, "fp32": 1}, 0.75)


def test_a_tie_goes_to_the_wider_type():
    text = sample.text_10(sample.layer_10("a/Conv", "int8"), sample.layer_10("b/Conv", "fp16"))
    assert observed_precision(parse_engine_information(text)).precision == "fp16"


def test_one_kernel_that_rounds_makes_an_fp32_engine_tf32():
    text = sample.text_10(*[sample.layer_10(f"{i}/Conv", "fp32") for i in range(3)], sample.layer_10("t/Conv", "tf32"))
    found = observed_precision(parse_engine_information(text))
    assert found == Observed("tf32", {"fp32": 3, "tf32": 1}, 1.0)
    assert "tf32" in label_problem("fp32", found)


def test_an_engine_that_ignored_the_request_is_seen():
    """rf-detr #1453: fp16 was requested, the engine was fp32, exit code 0."""
    text = sample.text_11(*[sample.layer_11(f"{i}/Conv", "fp32") for i in range(5)])
    problem = label_problem("fp16", observed_precision(parse_engine_information(text)))
    assert problem == "fp16 was requested, but most compute layers run in fp32 (fp32 5)"


def test_a_right_label_has_no_problem():
    found = observed_precision(parse_engine_information(sample.text_11(sample.layer_11("a/Conv", "fp16"))))
    assert label_problem("fp16", found) is None
    assert label_problem("fp16", found, in_graph={"fp16": 1}) is None


def test_a_file_that_is_mostly_float_may_build_an_engine_that_is():
    found = Observed("fp32", {"fp32": 6, "int8": 4}, 0.6)
    assert label_problem("int8", found) is not None
    assert label_problem("int8", found, in_graph={"fp32": 6, "int8": 4}) is None


def test_quantised_nodes_that_vanish_from_the_engine_are_seen():
    found = Observed("fp32", {"fp32": 9, "int8": 1}, 0.9)
    problem = label_problem("int8", found, in_graph={"fp32": 6, "int8": 4})
    assert "40% of the compute nodes of the ONNX file are int8, but 10%" in problem


def test_tf32_kernels_are_the_fp32_nodes_of_the_file():
    found = Observed("tf32", {"tf32": 8, "fp32": 2}, 1.0)
    assert label_problem("tf32", found, in_graph={"fp32": 10}) is None


def test_an_engine_without_a_visible_type_is_unknown_and_a_problem():
    hidden = sample.layer_10("a/Conv", "fp16", shown=sample.TEXT_10["dynamic"], tactic="")
    found = observed_precision(parse_engine_information(sample.text_10(hidden, sample.reformat())))
    assert found == Observed("unknown", {"unknown": 1}, 0.0)
    assert "no convolution or matrix product shows its type" in label_problem("fp16", found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "returned nothing"),
        ("  \n", "returned nothing"),
        ('{"Layers": [', "not JSON (line 1 column"),
        ("[]", "no list 'Layers'"),
        ('{"Layers": []}', "no list 'Layers'"),
        ('{"Bindings": ["a"]}', "no list 'Layers'"),
        ('{"Layers": ["/stem/Conv + /stem/Relu"], "Bindings": []}', "ProfilingVerbosity.DETAILED"),
    ],
)
def test_a_text_without_types_is_an_error(text, words):
    with pytest.raises(ArtifactError) as caught:
        parse_engine_information(text)
    assert words in str(caught.value)


def test_a_truncated_text_is_an_error():
    whole = sample.text_10(sample.layer_10("a/Conv", "fp16"), sample.layer_10("b/Conv", "int8"))
    for end in range(1, len(whole), 97):
        with pytest.raises(ArtifactError):
            parse_engine_information(whole[:end])


def test_layers_survive_the_record():
    text = sample.text_10(sample.layer_10("a/Conv", "int8", weights="Int8"), sample.reformat())
    for layer in parse_engine_information(text):
        assert layer_of_record(json.loads(json.dumps(layer_record(layer)))) == layer


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Name", "LayerType", "Inputs", "Outputs", "Weights", "Type", "DataType"]), inner
        )
    ),
    max_leaves=12,
)


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["Name", "LayerType", "Inputs", "Outputs", "Weights", "TacticName"]), _JSON)
    )
)
def test_no_content_of_a_layer_escapes_as_another_exception(layers):
    text = json.dumps({"Layers": layers})
    if not layers:
        with pytest.raises(ArtifactError):
            parse_engine_information(text)
    else:
        observed_precision(parse_engine_information(text))
