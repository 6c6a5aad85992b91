"""A backend and a model, and the same ones after a commit that made them worse; under the same names.

Sleeping takes its time whatever else the host does: five milliseconds differ by well under a percent between runs.
"""

from __future__ import annotations

import time
from dataclasses import replace

from bench.testing import fake_adapter, fake_backend, sabotage, sabotage_adapter

reference_backend = sabotage(fake_backend, name="nap-reference", before=lambda runs: time.sleep(0.005))
backend = sabotage(fake_backend, name="nap", before=lambda runs: time.sleep(0.005))
slower_backend = sabotage(fake_backend, name="nap", before=lambda runs: time.sleep(0.007))


def _forget(outputs, meta, honest):
    """Every detection of the last class is lost, in the reference as in the candidate."""
    found = honest(outputs, meta)
    kept = found.labels != 2
    return replace(found, boxes_xyxy=found.boxes_xyxy[kept], scores=found.scores[kept], labels=found.labels[kept])


adapter = fake_adapter
forgetful_adapter = sabotage_adapter(fake_adapter, postprocess=_forget)
