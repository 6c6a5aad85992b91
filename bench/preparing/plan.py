"""What would be done: the model, its weights and images, every step with its files, without touching anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, InputError, UsageError
from bench.fixtures import resolve
from bench.manifests import list_manifests, load_manifest
from bench.preparing import cocoimages, hub
from bench.preparing.images import Choice, count_of, has_splits, is_rendered, own_split, wanted_of
from bench.preparing.manifest import BUILDER, CACHE, CALIBRATION, CARD, FILES, INT8, MANIFEST, MODEL, ROLES
from bench.preparing.steps import IN_PLACE, Steps
from bench.registry import adapter_names, adapter_reference, fitted_reference, load_adapter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.matrix import Request
    from bench.registry import Reference
    from bench.types import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What was asked for, after the command line was read."""

    adapter: Reference
    spec: ModelSpec
    variant: str | None
    weights: Path
    """Weights, or an .onnx file; with ``skip_export`` the model.onnx in ``out``."""
    out: Path
    choice: Choice
    request: Request
    """Options of the conversion and limits of the lanes."""
    cache_version: str
    """TensorRT version in the header of the calibration cache, digits."""
    repo: str | None = None
    upload: bool = False
    skip_export: bool = False
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the plan."""

    name: str
    what: str
    files: tuple[tuple[str, int | None], ...] = ()
    """(name in the folder, bytes when it is there and finished)."""
    fetch: tuple[str, ...] = ()
    """Addresses that would be read, as far as they are known."""
    fetch_count: int = 0
    """How many they would be."""
    upload: tuple[str, ...] = ()
    """Addresses that would be written."""
    notes: tuple[str, ...] = field(default_factory=tuple)


def resolve_model(model: str, variant: str | None) -> str:
    """Find a model's variant: a registered name that is ``MODELVARIANT``, ``MODEL-VARIANT`` or ``MODEL_VARIANT``.

    Raises:
        UsageError: no such model, or none of its variants; the known ones are listed.
    """
    if variant is None:
        return model
    registered = adapter_names()
    for name in (f"{model}{variant}", f"{model}-{variant}", f"{model}_{variant}"):
        if name in registered:
            return name
    known = [n.removeprefix(model).lstrip("-_") for n in registered if n.startswith(model) and n != model]
    if not known:
        load_adapter(model)  # an unknown model is named as such
    listed = f" Known: {', '.join(sorted(known))}." if known else " It has none; leave --model-variant out."
    raise UsageError(f"--model-variant {variant}: {model} has no such variant.{listed}")


def make_order(
    model: str,
    *,
    request: Request,
    out: Path,
    variant: str | None,
    count: int | None,
    listed: Path | None,
    repo: str | None,
    cache_version: str,
    skip_export: bool,
    skip_download: bool,
    skip_upload: bool,
    allow_evaluation: bool,
) -> Order:
    """Check everything that can be checked without touching anything.

    Raises:
        UsageError: an unknown name, weights that are missing, options that contradict each other.
        InputError: an output folder that holds other files of the same names.
    """
    reference = adapter_reference(resolve_model(model, variant))
    spec = load_adapter(reference.target).spec
    if repo is not None:
        hub.check_repo(repo)
    if count is not None and count < 1:
        raise UsageError(f"--calibration-images {count}: give at least 1.")
    if not cache_version.isdecimal():
        raise UsageError(f"--cache-version {cache_version}: the digits of a TensorRT version, as 101601 for 10.16.1.")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file. Give a folder.")
    steps = Steps(out)
    foreign = [n for n in steps.foreign(FILES) if not (skip_export and n == MODEL)]
    if steps.facts("export").get(IN_PLACE) and not skip_export and (out / MODEL).exists():
        foreign.append(MODEL)
    if foreign:
        raise InputError(
            f"--out {out}: holds {', '.join(foreign)}, not written by parity prepare. Nothing is overwritten: choose "
            "another folder, or move these away."
        )
    if skip_export and request.weights:
        raise UsageError("--skip-export takes model.onnx from --out; leave --weights out.")
    weights = _given_onnx(out) if skip_export else _weights(reference, spec, request.weights)
    reference = fitted_reference(reference, weights)
    spec = load_adapter(reference.target).spec
    return Order(
        adapter=reference,
        spec=spec,
        variant=variant,
        weights=weights,
        out=out,
        choice=Choice(
            calibration=request.calibration,
            evaluation=request.fixtures or spec.default_fixtures,
            count=count,
            seed=request.seed,
            listed=listed,
            allow_evaluation=allow_evaluation,
            may_fetch=not skip_download,
        ),
        request=request,
        cache_version=cache_version,
        repo=repo,
        upload=repo is not None and not skip_upload,
        skip_export=skip_export,
        command=request.command,
    )


def _given_onnx(out: Path) -> Path:
    path = out / MODEL
    if not path.is_file():
        raise InputError(f"--skip-export: {path}: no such file. Put the fp32 ONNX file there, or leave it out.")
    return path.resolve()


def _weights(adapter: Reference, spec: ModelSpec, given: Mapping[str, Path]) -> Path:
    unknown = sorted(set(given) - {adapter.name, "*"})
    if unknown:
        raise UsageError(f"--weights {unknown[0]}=...: the model is {adapter.name}.")
    path = given.get(adapter.name) or given.get("*") or spec.default_weights
    if path is None:
        raise UsageError(f"{adapter.name} ships no weights. Type: --weights PATH")
    if not path.is_file():
        raise UsageError(f"{adapter.name}: weights {path}: no such file. Type: --weights PATH")
    return path.resolve()


def make_steps(order: Order) -> list[Step]:
    """List the steps; reads files and no network, writes nothing.

    Raises:
        UsageError, InputError: images that cannot be had at all.
    """
    steps = Steps(order.out)
    notes = (f"{steps.unreadable}; begun anew",) if steps.unreadable else ()

    def there(*names: str) -> tuple[tuple[str, int | None], ...]:
        stored = steps.stored()
        whole = {n: s.bytes for n, s in stored.items() if (order.out / n).is_file() and not steps.changed(n)}
        return tuple((n, whole.get(n)) for n in names)

    weights = f"{order.weights.name}, {order.weights.stat().st_size} bytes"
    source = "take" if order.weights.suffix.lower() == ".onnx" else "export"
    listed = [
        Step(
            name="export", what=f"{source} {order.spec.name} as fp32 ONNX ({weights})", files=there(MODEL), notes=notes
        ),
        _image_step(order.choice),
        Step(name="int8", what=f"quantise: {_conversion(order)}", files=there(INT8)),
        Step(name="calibrate", what=ROLES[CALIBRATION], files=there(CALIBRATION)),
        Step(name="cache", what=f"{ROLES[CACHE]} (header version {order.cache_version})", files=there(CACHE)),
        Step(name="builder", what=ROLES[BUILDER], files=there(BUILDER)),
        Step(name="describe", what="model card and manifest", files=there(CARD, MANIFEST)),
    ]
    return [*listed, _publish_step(order)]


def _conversion(order: Order) -> str:
    chosen = order.request.conversion
    excluded = f", --exclude {' '.join(chosen.exclude)}" if chosen.exclude else ""
    return f"calibrator {chosen.calibrator}, tune {'yes' if chosen.tune else 'no'}{excluded}"


def _image_step(choice: Choice) -> Step:
    wanted = wanted_of(choice)
    if wanted is not None:
        if not choice.may_fetch:
            wanted = cocoimages.require(wanted)
        urls = tuple(u for u in (wanted.list_url, *map(wanted.url, wanted.missing())) if u)
        unnamed = wanted.names is None
        return Step(
            name="images",
            what=f"{wanted.count} images of COCO {wanted.split} by seed {choice.seed}, kept in {wanted.folder}",
            fetch=urls,
            fetch_count=1 + wanted.count if unnamed else len(urls),
            notes=(
                *wanted.describe(),
                *(("which ones is known once the list is there",) if unnamed else ()),
                "without a network: --calibration DIR with images of your own",
            ),
        )
    own = own_split(choice)
    name = choice.evaluation if own else choice.calibration or ""
    if is_rendered(name):
        held = int(load_manifest(list_manifests()[name])["splits"]["calibration"]["images"])
        how = "rendered on this host, nothing is fetched"
    else:
        try:
            held = len(resolve(name, split="calibration").samples)
        except BenchError as error:
            raise type(error)(f"calibration images: {error}") from error
        how = "read on this host, nothing is fetched"
    count = count_of(choice, held, name)
    which = f"{name} calibration split" if has_splits(name) else name
    return Step(name="images", what=f"{count} of the {held} images of {which} by seed {choice.seed}; {how}")


def _publish_step(order: Order) -> Step:
    if order.repo is None:
        return Step(name="publish", what="no: no --hf-repo was given")
    if not order.upload:
        return Step(name="publish", what="no: --skip-upload")
    address = hub.endpoint()
    return Step(
        name="publish",
        what=f"one commit of {len(FILES)} files to {order.repo}, token from {hub.TOKEN}",
        files=tuple((n, None) for n in FILES),
        upload=(f"{address}/{order.repo}",),
        notes=("made if it does not exist: public, unless the organisation's default is private",),
    )


def as_json(order: Order, steps: list[Step]) -> dict[str, Any]:
    """The plan as plain JSON values."""
    return {
        "model": order.spec.name,
        "out": str(order.out),
        "steps": [
            {
                "name": s.name,
                "what": s.what,
                "files": [{"name": n, "bytes": b} for n, b in s.files],
                "fetch": list(s.fetch),
                "fetch_count": s.fetch_count,
                "upload": list(s.upload),
                "notes": list(s.notes),
            }
            for s in steps
        ],
    }
