"""From an fp32 ONNX file to the artefact of a lower precision.

Precision lives in the artefact: fp16 and bf16 are graphs of that type, int8 is a Q/DQ graph, all with float32 inputs
and outputs, and the same file runs in every graph runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from bench.precision.options import Conversion
    from bench.types import Feeds

MADE_HERE = ("fp16", "bf16", "int8")
NEEDS_CALIBRATION = ("int8",)


def make(
    precision: str,
    source: Path,
    out: Path,
    *,
    feeds: Callable[[], Iterable[Feeds]],
    float_nodes: Sequence[str] = (),
    options: Conversion | None = None,
) -> dict[str, Any]:
    """Convert the fp32 file ``source`` to ``precision``, write it to ``out``, check it and return the recipe.

    What is written is run on the first calibration input, or on zeros when there is none, see ``gate.accept``.

    Args:
        precision: one of ``MADE_HERE``.
        source: fp32 ONNX file.
        out: file to write.
        feeds: opens the calibration inputs (B = 1) anew at every call, always the same ones in the same order.
        float_nodes: patterns of nodes that int8 and bf16 leave in float, see ``graph.float_region``.
        options: what a person chose; the defaults when None.

    Raises:
        Unsupported: a precision without a conversion.
        InputError, UsageError, ContractError, ArtifactError: as ``fp16.convert_fp16``, ``bf16.convert_bf16`` and
            ``int8.quantize_int8``.
    """
    from bench.precision.gate import accept, example

    recipe = _converted(precision, source, out, feeds=feeds, float_nodes=float_nodes, options=options)
    first = next(iter(feeds()), None)
    passed = accept(out, example(out) if first is None else first)
    recipe["gates"] = {**passed, "ran_on": "zeros" if first is None else "the first calibration image"}
    return recipe


def _converted(
    precision: str,
    source: Path,
    out: Path,
    *,
    feeds: Callable[[], Iterable[Feeds]],
    float_nodes: Sequence[str],
    options: Conversion | None,
) -> dict[str, Any]:
    if precision == "fp16":
        from bench.precision.fp16 import convert_fp16

        return convert_fp16(source, out, feeds=feeds, exclude=options.exclude if options else ())
    if precision == "bf16":
        from bench.precision.bf16 import convert_bf16

        exclude = options.exclude if options else ()
        return convert_bf16(source, out, float_nodes=float_nodes, exclude=exclude)
    if precision == "int8":
        from bench.precision.int8 import quantize_int8

        return quantize_int8(source, out, feeds=feeds, float_nodes=float_nodes, options=options)
    raise Unsupported(f"no conversion makes a {precision} graph; there is one for {', '.join(MADE_HERE)}")
