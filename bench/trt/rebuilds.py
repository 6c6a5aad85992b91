"""How much do engines of one file differ? A builder times its choices, so two builds are two engines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.trt.inspector import layer_of_record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.trt.inspector import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Differences between several builds of one file on one host."""

    builds: int
    different_files: int
    """Number of different hashes; equal engines are the exception."""
    bytes_low: int
    bytes_high: int
    seconds_low: float
    seconds_high: float
    retyped: tuple[str, ...]
    """Compute layers that all builds have, and that do not run in the same precision in all of them."""
    rekernelled: int
    """Layers that all builds have, and that do not run the same kernel in all of them."""
    refused: int
    """Layers that some builds have and others fused otherwise."""
    shared_timing_cache: bool

    def lines(self) -> list[str]:
        """For a person."""
        found = [
            f"{self.builds} builds: {self.different_files} different files, {self.bytes_low / 1e6:.2f} to "
            f"{self.bytes_high / 1e6:.2f} MB, {self.seconds_low:.1f} to {self.seconds_high:.1f} s",
            f"  layers with another kernel: {self.rekernelled}; fused differently: {self.refused}; compute layers in "
            f"another precision: {len(self.retyped)}",
        ]
        found += [f"    {name}" for name in self.retyped[:20]]
        if self.shared_timing_cache:
            found.append("  the builds shared a timing cache: independent builds differ more")
        return found


def spread_of(records: Sequence[Mapping[str, Any]]) -> Spread:
    """Compare the records (schema ``engine/1``) of two or more builds."""
    tables = [{layer["name"]: layer for layer in record["layers"]} for record in records]
    common = set(tables[0]).intersection(*tables[1:])
    everywhere = set(tables[0]).union(*tables[1:])
    retyped = [name for name in sorted(common) if _differ([layer_of_record(table[name]) for table in tables])]
    sizes = [record["engine"]["bytes"] for record in records]
    seconds = [record["build_s"] for record in records]
    return Spread(
        builds=len(records),
        different_files=len({record["engine"]["sha256"] for record in records}),
        bytes_low=min(sizes),
        bytes_high=max(sizes),
        seconds_low=min(seconds),
        seconds_high=max(seconds),
        retyped=tuple(retyped),
        rekernelled=sum(len({t[name]["tactic"] for t in tables}) > 1 for name in common),
        refused=len(everywhere - common),
        shared_timing_cache=any(record["timing_cache"] is not None for record in records),
    )


def precision_table(records: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Precision -> compute layers that run in it, one number per build."""
    words = Counter(word for record in records for word in record["precision"]["compute_layers"])
    return {word: [r["precision"]["compute_layers"].get(word, 0) for r in records] for word in sorted(words)}


def _differ(layers: Sequence[Layer]) -> bool:
    return any(layer.is_compute for layer in layers) and len({layer.precision for layer in layers}) > 1
