"""Backends that behave while they are scored and not while they are timed; loaded by name in a lane."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from bench.testing import fake_backend
from bench.testing.saboteurs import sabotage

HONEST_RUNS = 60
"""More than the accuracy pass of the tests makes, fewer than the timing."""
HONEST_ANSWERS = 44
"""Those of loading, sampling, the accuracy pass and its repetition on 32 images, and of three rounds."""


def _raise_when_opened_again(runs):
    marker = Path(os.environ["PARITY_TEST_MARKER"])
    if runs == 0:
        if marker.exists():
            raise RuntimeError("the second session was refused")
        marker.write_text("opened once")


def _raise_late(runs):
    if runs >= HONEST_RUNS:
        raise RuntimeError("gave up while timed")


class _Coarser:
    """Answers a little differently after some runs, as a runtime does that switches to a cheaper path."""

    def __init__(self):
        self.runs = 0

    def __call__(self, outputs):
        self.runs += 1
        late = self.runs > HONEST_ANSWERS
        return {name: np.round(value, 3) if late else value for name, value in outputs.items()}


honest_backend = sabotage(fake_backend, name="timed-honest")
lazy_backend = sabotage(fake_backend, name="timed-lazy", works=lambda runs: runs < HONEST_RUNS)
coarser_backend = sabotage(fake_backend, name="timed-coarser", change=_Coarser())
caching_backend = sabotage(fake_backend, name="timed-caching", remembers=True, before=lambda runs: time.sleep(0))
late_backend = sabotage(fake_backend, name="timed-late", before=_raise_late)
once_backend = sabotage(fake_backend, name="timed-once", before=_raise_when_opened_again)
