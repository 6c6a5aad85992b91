"""calibration.json and calibration.cache: ranges of model.onnx, and the scales of its int8 file in the old form.

The cache is for model.onnx and has a scale for what model.int8.onnx quantises: what that leaves in float, implicit int8
leaves in float too. Its scales are those of model.int8.onnx, unless the conversion moved factors from one layer to the
next (equalisation): then they would be of other values, and the ranges of calibration.json are taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.errors import ArtifactError
from bench.files import sha256_file
from bench.host import package_versions
from bench.precision.calibration import Calibration, CalibrationImage, read_calibration, write_calibration
from bench.precision.collect import METHODS, PERCENTILE
from bench.preparing.manifest import CACHE, CALIBRATION, INT8, MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bench.lanes import Lane
    from bench.preparing.images import Images

ALGORITHM = "EntropyCalibration2"
"""In the header: the class that reads a cache, whatever chose the ranges. TensorRT's own default."""
_PACKAGES = ("onnx", "onnxruntime", "numpy", "opencv-python-headless")


def method_of(recipe: Mapping[str, Any]) -> str:
    """The calibrator that an int8 recipe names; with ``auto``, the one that it chose.

    Raises:
        ArtifactError: the recipe names none.
    """
    for value in (recipe.get("calibrator"), recipe.get("calibration")):
        word = str(value).split(" ")[0]
        if word in METHODS:
            return word
    raise ArtifactError(f"the recipe of {INT8} does not say which calibrator was used ({', '.join(METHODS)}).")


def write_ranges(
    lane: Lane,
    folder: Path,
    *,
    adapter: str,
    model: str,
    images: Images,
    recipe: Mapping[str, Any],
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Collect the ranges of model.onnx in a lane and write calibration.json; return facts for card and manifest.

    Raises:
        ArtifactError, InputError: as ``collect`` and ``write_calibration``.
    """
    method = method_of(recipe)
    source = folder / MODEL
    count, digest, ranges = lane.call(
        "calibrate",
        adapter=adapter,
        source=source,
        samples=images.chosen.samples,
        method=method,
        progress=progress,
    )
    write_calibration(
        folder / CALIBRATION,
        Calibration(
            method=f"percentile {PERCENTILE}" if method == "percentile" else method,
            ranges=ranges,
            onnx_sha256=sha256_file(source),
            images=count,
            images_sha256=digest,
            set_name=images.chosen.name,
            seed=images.seed,
            evaluation_images=images.evaluation_images,
            evaluation_sets=images.evaluation_sets,
            model=model,
            set_split=images.chosen.split,
            set_sha256=images.chosen.sha256,
            files=tuple(CalibrationImage(name=name, sha256=sha) for name, sha in images.hashes),
            versions=package_versions(_PACKAGES),
        ),
    )
    return {"method": method, "images_sha256": digest, "tensors": len(ranges)}


def write_trt_cache(folder: Path, recipe: Mapping[str, Any], *, version: str) -> dict[str, Any]:
    """Write calibration.cache for model.onnx; return its header and where its scales come from.

    Args:
        folder: holds model.onnx's calibration.json and model.int8.onnx.
        recipe: of model.int8.onnx.
        version: TensorRT version of the header, digits.

    Raises:
        ArtifactError: no tensor that the int8 file quantises has a range in model.onnx.
        InputError: as ``write_cache``.
    """
    import onnx

    from bench.precision.qdq import scales_of
    from bench.precision.trtcache import write_cache

    ranges = {name: r for name, r in read_calibration(folder / CALIBRATION).ranges.items() if r.amax > 0}
    quantised = scales_of(onnx.load(str(folder / INT8)))
    moved = equalised(recipe)
    scales = {name: ranges[name].scale if moved else scale for name, scale in quantised.items() if name in ranges}
    if not scales:
        raise ArtifactError(
            f"{INT8} quantises {len(quantised)} activations, and none of them is a tensor of {MODEL}: there is no "
            f"scale to write into {CACHE}."
        )
    header = write_cache(folder / CACHE, scales, version=version, algorithm=ALGORITHM)
    ratios = [scale / ranges[name].scale for name, scale in scales.items()]
    return {
        "header": header,
        "tensors": len(scales),
        "scales_from": CALIBRATION if moved else INT8,
        "ratio_to_calibration": [min(ratios), max(ratios)],
        "quantised_in_int8": len(quantised),
        "not_in_onnx": sorted(set(quantised) - set(ranges)),
    }


def equalised(recipe: Mapping[str, Any]) -> bool:
    """Whether the conversion moved factors between layers, so that its scales are not those of model.onnx."""
    found = recipe.get("tuning", {}).get("equalisation")
    return bool(found) and bool(found.get("kept", True))
