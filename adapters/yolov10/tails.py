"""ONNX graphs that select detections, put behind the decoded network.

They are written as graphs and merged, because the exporter knows no NMS without torchvision and because a selection
must not be traced. Both end alike: a TopK over (anchor, class) pairs, the rows gathered and padded to a static number.

NMS is ONNX's own operator, class by class, on corners in pixels: no class offset is added to any coordinate, which
costs precision where offsets are large. The boxes that stay are scattered into a dense map, so that one TopK ranks the
classes of an image together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters.yolov10.deployed import DENSE

if TYPE_CHECKING:
    from onnx import ModelProto

    from bench.deployment.options import ExportOptions

NODE_PREFIX = "/select/"
_REDUCE_AXES_INPUT = 18
"""From this opset on ReduceMax takes its axes as an input."""
_CORNERS = """
    centres, sizes = Split <axis = 1> (tail_boxes, two_two)
    halves = Mul (sizes, half)
    low = Sub (centres, halves)
    high = Add (centres, halves)
    corners = Concat <axis = 1> (low, high)
    boxes_xyxy = Transpose <perm = [0, 2, 1]> (corners)
"""
_NMS = """
    chosen = NonMaxSuppression (boxes_xyxy, tail_scores, rows, iou, conf)
    shape = Shape (tail_scores)
    nothing = ConstantOfShape (shape)
    values = GatherND (tail_scores, chosen)
    kept = ScatterND (nothing, chosen, values)
    flat = Reshape (kept, keep_batch)
    best, pairs = TopK <axis = 1> (flat, taken)
    labels = Div (pairs, anchor_count)
    anchors = Mod (pairs, anchor_count)
"""
_TOPK = """
    ranks = {reduce_max}
    best_of_anchor, candidates = TopK <axis = 1> (ranks, taken_anchors)
    candidate_rows = Unsqueeze (candidates, last)
    by_anchor = Transpose <perm = [0, 2, 1]> (tail_scores)
    candidate_scores = GatherND <batch_dims = 1> (by_anchor, candidate_rows)
    flat = Reshape (candidate_scores, keep_batch)
    best, pairs = TopK <axis = 1> (flat, taken)
    candidate = Div (pairs, class_count)
    labels = Mod (pairs, class_count)
    anchors = GatherElements <axis = 1> (candidates, candidate)
"""
_ROWS = """
    anchor_rows = Unsqueeze (anchors, last)
    boxes = GatherND <batch_dims = 1> (boxes_xyxy, anchor_rows)
    score_column = Unsqueeze (best, last)
    label_float = Cast <to = 1> (labels)
    label_column = Unsqueeze (label_float, last)
    selected = Concat <axis = 2> (boxes, score_column, label_column)
"""
_COUNT = """
    found = Greater (best, nought)
    found_column = Unsqueeze (found, last)
    whole = Where (found_column, selected, nought)
    detections = Pad (whole, padding)
    counts = Cast <to = 6> (found)
    num_dets = ReduceSum <keepdims = 0> (counts, one)
"""
_ALL = """
    detections = Pad (selected, padding)
"""


def add_tail(dense: ModelProto, options: ExportOptions, anchors: int, classes: int) -> ModelProto:
    """Put the selection of ``options.head`` behind ``boxes_cxcywh`` (B, 4, A) and ``scores`` (B, nc, A).

    Args:
        dense: model with these two outputs; they become tensors inside of the graph, under their names.
        options: ``topk`` or ``nms``, and its thresholds.
        anchors: A.
        classes: nc.

    Returns:
        A new model; its added nodes are named ``/select/...``.
    """
    import onnx

    tail = _tail(options, anchors, classes, opset=_opset(dense), ir_version=dense.ir_version)
    for index, node in enumerate(tail.graph.node):
        node.name = f"{NODE_PREFIX}{node.op_type}_{index}"
    outputs = [value.name for value in tail.graph.output]
    inner = {name for node in tail.graph.node for name in node.output} | {t.name for t in tail.graph.initializer}
    renamed = {name: f"{NODE_PREFIX}{name}" for name in inner - set(outputs)}
    for node in tail.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        for index, name in enumerate(node.output):
            node.output[index] = renamed.get(name, name)
    for tensor in tail.graph.initializer:
        tensor.name = renamed[tensor.name]
    merged: ModelProto = onnx.compose.merge_models(
        dense, tail, io_map=list(zip(DENSE, ("tail_boxes", "tail_scores"), strict=True)), outputs=outputs
    )
    version = _opset(dense)
    del merged.opset_import[:]  # merging lists the same one twice
    merged.opset_import.append(onnx.helper.make_opsetid("", version))
    return merged


def readers(model: ModelProto) -> dict[str, list[str | int]]:
    """``boxes_cxcywh`` and ``scores`` -> the node of the tail, and which of its inputs, that reads them.

    Named by node, because a conversion to fp16 renames tensors.
    """
    found: dict[str, list[str | int]] = {}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if node.name.startswith(NODE_PREFIX) and name in DENSE:
                found.setdefault(name, [node.name, index])
    return found


def _tail(options: ExportOptions, anchors: int, classes: int, *, opset: int, ir_version: int) -> ModelProto:
    import onnx

    rows = options.max_detections
    pairs = min(rows, anchors * classes)
    kinds = f"float[batch, 4, {anchors}] tail_boxes, float[batch, {classes}, {anchors}] tail_scores"
    outputs = f"float[batch, {rows}, 6] detections"
    constants = [
        "int64[2] two_two = {2, 2}", "float half = {0.5}", "int64[2] keep_batch = {0, -1}", "int64[1] last = {-1}",
        f"int64[1] taken = {{{pairs}}}", f"int64[6] padding = {{0, 0, 0, 0, {rows - pairs}, 0}}",
    ]  # fmt: skip
    if options.head == "nms":
        outputs += ", int32[batch] num_dets"
        constants += [
            f"int64[1] rows = {{{rows}}}", f"float[1] iou = {{{float(options.iou)!r}}}",
            f"float[1] conf = {{{float(options.conf)!r}}}",
            f"int64 anchor_count = {{{anchors}}}", "float nought = {0.0}", "int64[1] one = {1}",
        ]  # fmt: skip
        body = _CORNERS + _NMS + _ROWS + _COUNT
    else:
        constants += [f"int64[1] taken_anchors = {{{min(rows, anchors)}}}", f"int64 class_count = {{{classes}}}"]
        reduce_max = "ReduceMax <axes = [1], keepdims = 0> (tail_scores)"
        if opset >= _REDUCE_AXES_INPUT:
            constants.append("int64[1] one = {1}")
            reduce_max = "ReduceMax <keepdims = 0> (tail_scores, one)"
        body = _CORNERS + _TOPK.format(reduce_max=reduce_max) + _ROWS + _ALL
    head = f'<ir_version: {ir_version}, opset_import: ["": {opset}]>'
    text = f"{head}\nselect ({kinds}) => ({outputs})\n<{', '.join(constants)}>\n{{{body}}}"
    model: ModelProto = onnx.parser.parse_model(text)
    return model


def _opset(model: ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
