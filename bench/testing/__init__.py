"""Public fakes: a model, a backend and fixtures in plain numpy, and saboteurs that a gate must catch.

Everything is importable by name, so that a lane can load it: ``bench.testing:fake_adapter``,
``bench.testing:fake_backend``, ``bench.testing:nan_backend`` and the other saboteurs. ``sabotage`` and
``sabotage_adapter`` make saboteurs of any backend or model (see ``bench.testing.saboteurs`` for an example), and
``parity doctor --prove`` plants the lot.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np

from bench.testing.fakes import (
    CLASSES,
    SIDE,
    FakeAdapter,
    FakeBackend,
    FakeNetwork,
    FakeRunner,
    fake_fixtures,
    fake_folder,
    fake_image,
)
from bench.testing.saboteurs import Plan, SabotagedAdapter, SabotagedBackend, Saboteur, sabotage, sabotage_adapter

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.types import Backend, Outputs

__all__ = [
    "CLASSES",
    "SIDE",
    "FakeAdapter",
    "FakeBackend",
    "FakeNetwork",
    "FakeRunner",
    "Plan",
    "SabotagedAdapter",
    "SabotagedBackend",
    "Saboteur",
    "fake_fixtures",
    "fake_folder",
    "fake_image",
    "sabotage",
    "sabotage_adapter",
]


def _later(act: Callable[[], None]) -> Callable[[int], None]:
    """Let the lane's first inference pass, then ``act``."""

    def before(runs: int) -> None:
        if runs >= 1:
            act()

    return before


def _signal(number: signal.Signals) -> Callable[[int], None]:
    return _later(lambda: os.kill(os.getpid(), number))


def _grow() -> None:
    held = []
    for _ in range(4096):
        held.append(np.ones(8 * 2**20 // 8))  # written, so that it is resident: 8 MiB each
        time.sleep(0.005)  # slow enough for the watcher to see it coming


def _raise() -> None:
    raise RuntimeError("the runtime gave up")


def _fill_empty_rows(outputs: Outputs) -> Outputs:
    """Report a box for every colour that the image does not have."""
    return {**outputs, "scores": np.where(outputs["scores"] < FakeAdapter.spec.score_floor, np.float32(0.9),
                                          outputs["scores"])}  # fmt: skip


adapter = fake_adapter = FakeAdapter()
backend = fake_backend = FakeBackend()
_wrong = partial(sabotage, cast("Backend", fake_backend))  # its fields are frozen, the protocol's are not
nan_backend = _wrong(
    name="fake-nan", change=lambda o: {k: np.where(np.arange(v.size).reshape(v.shape) == 0, np.nan, v).astype(v.dtype)
                                       for k, v in o.items()})  # fmt: skip
inf_backend = _wrong(name="fake-inf", change=lambda o: {**o, "scores": np.full_like(o["scores"], np.inf)})
extra_boxes_backend = _wrong(name="fake-extra", change=_fill_empty_rows)
missing_boxes_backend = _wrong(name="fake-missing", change=lambda o: {**o, "scores": o["scores"] * 0})
shifted_backend = _wrong(name="fake-shifted", change=lambda o: {**o, "boxes": o["boxes"] + np.float32(2)})
wrong_shape_backend = _wrong(name="fake-shape", change=lambda o: {**o, "boxes": o["boxes"][..., :3]})
mislabelled_backend = _wrong(
    name="fake-mislabelled", testify=lambda e: replace(e, precision="bf16", emulated=False))  # fmt: skip
wrong_provider_backend = _wrong(name="fake-provider", testify=lambda e: replace(e, provider="npu"))
crashing_backend = _wrong(name="fake-crash", before=_signal(signal.SIGKILL))
segfault_backend = _wrong(name="fake-segfault", before=_signal(signal.SIGSEGV))
hanging_backend = _wrong(name="fake-hang", before=_later(lambda: time.sleep(3600)))
slow_backend = _wrong(name="fake-slow", before=_later(lambda: time.sleep(0.02)))
hungry_backend = _wrong(name="fake-hungry", before=_later(_grow))
raising_backend = _wrong(name="fake-raising", before=_later(_raise))
unavailable_backend = _wrong(
    name="fake-unavailable", refusal="fake-unavailable needs the package nowhere. Type: pip install nowhere"
)
