"""Inspector texts of TensorRT 10 and 11. Derived from NVIDIA's documentation and published dumps, never from an engine
that was built here: they show the layout, not what a GPU would answer."""

from __future__ import annotations

import json

INT8_KERNEL = (
    "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_nchw_tilesize64x32x64"
)
FP16_KERNEL = "sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x64x64_stage5_tensor16x8x16"
TF32_KERNEL = "sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nchw_tilesize128x128x16_stage4_tensor16x8x8"
FP32_KERNEL = "sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs_nchw_tilesize32x32x8_simt_small"
KERNELS = {"int8": INT8_KERNEL, "fp16": FP16_KERNEL, "tf32": TF32_KERNEL, "fp32": FP32_KERNEL}
TEXT_10 = {
    "fp32": "Row major linear FP32",
    "tf32": "Row major linear FP32",
    "fp16": "Channel major FP16 format where channel % 8 == 0",
    "bf16": "Row major linear BF16",
    "int8": "Thirty-two wide channel vectorized row major Int8 format",
    "dynamic": "N/A due to dynamic shapes",
}
TYPE_11 = {"fp32": "Float", "tf32": "Float", "fp16": "Half", "bf16": "BFloat16", "int8": "Int8"}


def layer_10(name, precision, *, kind="CaskConvolution", tactic=None, weights=None, shown=None):
    """One layer as TensorRT 10 writes it: the type stands inside ``Format/Datatype``."""
    shown = TEXT_10[precision] if shown is None else shown
    found = {
        "Name": name,
        "LayerType": kind,
        "Inputs": [
            {"Name": f"{name}_in", "Location": "Device", "Dimensions": [1, 64, 20, 20], "Format/Datatype": shown}
        ],
        "Outputs": [
            {"Name": f"{name}_out", "Location": "Device", "Dimensions": [1, 64, 20, 20], "Format/Datatype": shown}
        ],
        "ParameterType": "Convolution",
        "TacticName": KERNELS.get(precision, "") if tactic is None else tactic,
        "TacticValue": "0x11bde0e1d9f2f35d",
        "StreamId": 0,
        "Metadata": f"[ONNX Layer: {name}]\x1f[ONNX Layer: {name}/act]",
    }
    if weights is not None:
        found["Weights"] = {"Type": weights, "Count": 36864}
    return found


def layer_11(name, precision, *, kind="CaskConvolution", tactic=None):
    """One layer as TensorRT 11 writes it: ``Format`` and ``DataType`` apart."""
    tensor = {
        "Location": "Device",
        "Dimensions": [1, 64, 20, 20],
        "Format": "Row major linear",
        "DataType": TYPE_11[precision],
    }
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{"Name": f"{name}_in", **tensor}],
        "Outputs": [{"Name": f"{name}_out", **tensor}],
        "TacticName": KERNELS.get(precision, "") if tactic is None else tactic,
        "Metadata": f"[ONNX Layer: {name}]",
    }


def text_10(*layers):
    """``get_engine_information`` of 10: ``Bindings`` is a list of names. The separator 0x1F stands there unescaped."""
    return json.dumps({"Layers": list(layers), "Bindings": ["images", "cells"]}).replace("\\u001f", "\x1f")


def text_11(*layers):
    """``get_engine_information`` of 11: ``I/O Tensors`` is a list of objects."""
    tensor = {"DataType": "Float", "Dimensions": [1, 3, 320, 320], "Location": "Device", "IsShapeInferenceIO": False}
    io = [{"Name": "images", "IOMode": "Input", **tensor}, {"Name": "cells", "IOMode": "Output", **tensor}]
    return json.dumps({"Layers": list(layers), "I/O Tensors": io})


def reformat(name="Reformatting CopyNode for Input Tensor 0 to /stem/Conv", shown=TEXT_10["fp16"]):
    """A layer that moves data and computes nothing."""
    return layer_10(name, "fp16", kind="Reformat", tactic="", shown=shown)
