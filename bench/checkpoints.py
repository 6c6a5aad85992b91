"""What a finished cell leaves in the run folder, so that ``--resume RUN_ID`` need not measure it again.

``cells/<id>.json`` holds facts, ``cells/<id>.npz`` arrays (read without pickles). A checkpoint counts only for the same
artefact, the same images and the same settings; timing is always measured anew, because rounds interleave all cells.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ContractError, InputError
from bench.files import write_atomic
from bench.passes import Pass
from bench.schema import dumps, read_json
from bench.types import Prediction

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.types import Array, Cell

FORMAT = "cell_checkpoint/3"


def save(
    folder: Path, cell: Cell, identity: dict[str, Any], facts: dict[str, Any], done: Pass, raw: list[dict[str, Array]]
) -> None:
    """Write one cell's checkpoint, arrays first: facts without arrays would be found and not be whole.

    Args:
        folder: of the run.
        cell: whose results these are.
        identity: what the results depend on; compared by ``restore``.
        facts: plain JSON values to get back.
        done: the accuracy pass.
        raw: raw outputs of the golden images.

    Raises:
        InputError: the folder cannot be written.
        ContractError: an attribute in some of the images only.
    """
    ids = sorted(done.predictions)
    found = [done.predictions[i] for i in ids]
    arrays: dict[str, Any] = {
        "image_ids": np.array(ids, np.int64),
        "counts": np.array([len(p.scores) for p in found], np.int64),
        "boxes_xyxy": np.concatenate([np.zeros((0, 4), np.float32), *[p.boxes_xyxy for p in found]]),
        "scores": np.concatenate([np.zeros(0, np.float32), *[p.scores for p in found]]),
        "labels": np.concatenate([np.zeros(0, np.int64), *[p.labels for p in found]]),
        "pre_ms": np.array(done.pre_ms),
        "run_ms": np.array(done.run_ms),
        "post_ms": np.array(done.post_ms),
    }
    if found and all(p.keypoints_xys is not None for p in found):
        arrays["keypoints_xys"] = np.concatenate([p.keypoints_xys for p in found if p.keypoints_xys is not None])
    arrays.update(_attributes(found))
    for word, sequence in (("raw", raw), ("kept", done.kept)):
        arrays.update({f"{word}:{i}:{name}": value for i, o in enumerate(sequence) for name, value in o.items()})
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomic(folder / "cells" / f"{cell.id}.npz", buffer.getvalue())
    document = {
        "format": FORMAT,
        "identity": identity,
        "facts": facts,
        "wall_s": done.wall_s,
        "repeat_noise": dict(done.repeat_noise),
        "feed_hashes": {str(k): v for k, v in done.feed_hashes.items()},
    }
    write_atomic(folder / "cells" / f"{cell.id}.json", dumps(document))


def restore(
    folder: Path, cell: Cell, identity: dict[str, Any]
) -> tuple[dict[str, Any], Pass, list[dict[str, Array]]] | str:
    """Read a checkpoint back.

    Returns:
        Facts, accuracy pass and raw outputs; or, in words, why there is nothing to go on from.
    """
    path = folder / "cells" / f"{cell.id}.json"
    if not path.is_file():
        return "it was not finished"
    try:
        document = read_json(path)
        if document["format"] != FORMAT:
            return f"its checkpoint is not {FORMAT}"
        changed = sorted(k for k in identity if document["identity"].get(k) != identity[k])
        if changed:
            return f"it was measured with another {', '.join(changed)}"
        with path.with_suffix(".npz").open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return document["facts"], _pass(document, arrays), _outputs(arrays, "raw")
    except (InputError, OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        return f"its checkpoint cannot be read ({error})"


def _attributes(found: Sequence[Prediction]) -> dict[str, Array]:
    """``attribute:<name>`` -> the rows of all images."""
    filled = [p for p in found if len(p.scores)]
    joined: dict[str, Array] = {}
    for name in sorted({name for p in filled for name in p.attributes or ()}):
        columns = [(p.attributes or {}).get(name) for p in filled]
        given = [column for column in columns if column is not None]
        if len(given) < len(columns):
            raise ContractError(
                f"attribute '{name}' is given for {len(given)} of {len(columns)} images with detections"
            )
        joined[f"attribute:{name}"] = np.concatenate(given)
    return joined


def _pass(document: dict[str, Any], arrays: dict[str, Array]) -> Pass:
    ends = np.cumsum(arrays["counts"])
    predictions = {}
    for image_id, start, end in zip(
        arrays["image_ids"].tolist(), (ends - arrays["counts"]).tolist(), ends.tolist(), strict=True
    ):
        keypoints = arrays["keypoints_xys"][start:end] if "keypoints_xys" in arrays else None
        attributes = {k.partition(":")[2]: v[start:end] for k, v in arrays.items() if k.startswith("attribute:")}
        predictions[image_id] = Prediction(
            arrays["boxes_xyxy"][start:end],
            arrays["scores"][start:end],
            arrays["labels"][start:end],
            keypoints,
            attributes or None,
        )
    return Pass(
        predictions=predictions,
        feed_hashes={int(k): v for k, v in document["feed_hashes"].items()},
        pre_ms=arrays["pre_ms"].tolist(),
        run_ms=arrays["run_ms"].tolist(),
        post_ms=arrays["post_ms"].tolist(),
        wall_s=float(document["wall_s"]),
        kept=tuple(_outputs(arrays, "kept")),
        repeat_noise={name: float(value) for name, value in document["repeat_noise"].items()},
    )


def _outputs(arrays: dict[str, Array], word: str) -> list[dict[str, Array]]:
    found: dict[int, dict[str, Array]] = {}
    for key, value in arrays.items():
        if key.startswith(f"{word}:"):
            _, index, name = key.split(":", 2)
            found.setdefault(int(index), {})[name] = value
    return [found[i] for i in sorted(found)]
