"""Committed hashes of preprocessed images: the one check that sees a fault which all cells share.

``parity goldens MODEL --out FILE`` writes them when a model is added; its spec names the file. Whoever changes the
pre-processing on purpose writes them again, and the change shows in the commit.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from bench.compare import Goldens, compare_committed
from bench.files import write_atomic
from bench.passes import prepare
from bench.runner_base import feed_key
from bench.schema import dumps, read_json, validate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench.results import ParityResult
    from bench.types import Adapter, FixtureSet, ModelSpec

IMAGES = 8
"""Hashed images; one would do for a fault on all images, eight see most that depend on the image's size."""


def make_goldens(adapter: Adapter, fixtures: FixtureSet, *, count: int = IMAGES) -> Goldens:
    """Preprocess the first images of a set and hash the feeds."""
    return Goldens(
        fixtures=fixtures.name,
        fixtures_sha256=fixtures.sha256,
        opencv=_opencv(),
        hashes={s.path.name: feed_key(prepare(adapter, s)[0]) for s in fixtures.samples[:count]},
    )


def write_goldens(goldens: Goldens, out: Path) -> None:
    """Write the file that a spec names in ``preprocess_goldens``."""
    document = {
        "schema": "preprocess_goldens/1",
        "fixtures": goldens.fixtures,
        "fixtures_sha256": goldens.fixtures_sha256,
        "opencv": goldens.opencv,
        "hashes": dict(goldens.hashes),
    }
    validate(document, "preprocess_goldens", where=str(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, dumps(document))


def read_goldens(path: Path) -> Goldens:
    """Read a file of ``write_goldens``.

    Raises:
        InputError: it is missing, or not such a file.
    """
    document = read_json(path)
    validate(document, "preprocess_goldens", where=str(path))
    return Goldens(
        fixtures=document["fixtures"],
        fixtures_sha256=document["fixtures_sha256"],
        opencv=document["opencv"],
        hashes=document["hashes"],
    )


def committed_row(spec: ModelSpec, fixtures: FixtureSet, feed_hashes: Mapping[int, str]) -> ParityResult | None:
    """Compare one cell's feeds with the hashes that its model brings; None when it brings none.

    Raises:
        InputError: the model's file cannot be used.
    """
    goldens = None if spec.preprocess_goldens is None else read_goldens(spec.preprocess_goldens)
    return compare_committed(goldens, fixtures, feed_hashes, opencv=_opencv())


def _opencv() -> str:
    """Version and processor family: another family may round a resize differently."""
    import cv2

    return f"{cv2.__version__} {platform.machine()}"
