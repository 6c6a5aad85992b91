"""Optimisation profiles: limits for the batch axis. Height and width are fixed in the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import ArtifactError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.trt.options import BuildOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRange:
    """Shapes that one dynamic input may have."""

    name: str
    low: tuple[int, ...]
    best: tuple[int, ...]
    high: tuple[int, ...]


def input_ranges(network: Any, options: BuildOptions) -> tuple[InputRange, ...]:
    """Shapes of the inputs with a dynamic batch axis; empty when everything is static.

    Raises:
        Unsupported: another axis is dynamic, an input is a shape tensor, or a fixed batch is not the one asked for.
    """
    found = []
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(int(d) for d in tensor.shape)
        if tensor.is_shape_tensor:
            raise Unsupported(
                f"input {tensor.name} is a shape tensor: engines here take arrays of static height and width"
            )
        free = [axis for axis, size in enumerate(shape) if size < 0]
        if any(axis != 0 for axis in free):
            raise Unsupported(
                f"input {tensor.name} {shape} has dynamic axes {free}: only the batch (axis 0) may be. Export with a "
                "static height and width."
            )
        limits = options.limits_of(tensor.name)
        if free:
            low, best, high = ((size, *shape[1:]) for size in limits)
            found.append(InputRange(name=tensor.name, low=low, best=best, high=high))
        elif shape and limits not in ((1, 1, 1), (shape[0],) * 3):
            raise Unsupported(
                f"input {tensor.name} {shape} has the fixed batch {shape[0]}, so batches {limits} cannot be had. "
                "Export with a dynamic batch axis, or leave --batch out."
            )
    return tuple(found)


def add_profile(builder: Any, config: Any, ranges: Sequence[InputRange], *, explain: Any) -> Any:
    """Add one profile with these shapes and return it; None when there is nothing dynamic.

    Raises:
        ArtifactError: TensorRT creates or accepts no such profile.
    """
    if not ranges:
        return None
    profile = builder.create_optimization_profile()
    if profile is None:
        raise ArtifactError(f"TensorRT created no optimisation profile. {explain()}")
    for item in ranges:
        try:  # returns nothing; an inconsistency that it sees itself is a ValueError (docstring of 10.16 and 11.4)
            profile.set_shape(item.name, item.low, item.best, item.high)
        except ValueError as error:
            raise ArtifactError(
                f"TensorRT refuses the shapes {item.low} {item.best} {item.high} of {item.name} ({error}). {explain()}"
            ) from error
    index = config.add_optimization_profile(profile)
    if index is None or index < 0:
        shapes = "; ".join(f"{r.name} {r.low} {r.best} {r.high}" for r in ranges)
        raise ArtifactError(f"TensorRT refuses the optimisation profile (index {index}): {shapes}. {explain()}")
    return profile
