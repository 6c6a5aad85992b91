"""``parity export``: the ONNX file that the graph runtimes run, or one for deployment with other outputs."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from bench.console import ConsoleEvents
from bench.deployment.options import as_deployable, choose
from bench.errors import InputError, UsageError
from bench.fixtures import resolve
from bench.lanes import Lane
from bench.making import Maker
from bench.options import make_request
from bench.planning import make_plans, one_model
from bench.registry import load_adapter
from bench.schema import dumps, validate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.deployment.options import ExportOptions
    from bench.matrix import Request
    from bench.types import Sample

META_SUFFIX = ".meta.json"
VALIDATED_IMAGES = 8
_NUMBERS = ("batch", "largest error", "allowed", "rms/budget")
_PIPE_COLUMNS = 120
_PRECISIONS = ("fp32", "fp16")
_CONVERSION_ONLY = ("calibration", "exclude", "calibrator", "activations", "tune")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What was typed about a file for deployment; None: not typed."""

    head: str | None = None
    image_size: str | None = None
    opset: int | None = None
    conf: float | None = None
    iou: float | None = None
    max_detections: int | None = None
    validate: bool = False

    @property
    def wanted(self) -> bool:
        """Whether anything of it was typed; otherwise the file is the one that the graph runtimes run."""
        return self != Deployment()


def export_command(options: Mapping[str, Any], *, out: Path, deployment: Deployment | None = None) -> int:
    """Write one file; 1 when it was compared with torch and differs, and then nothing is written.

    Args:
        options: of the request: models, weights, fixtures, precisions, and how lower precisions are made.
        out: ONNX file.
        deployment: what was typed about other outputs, sizes and opsets.

    Raises:
        UsageError, InputError: what was given cannot be used.
        ArtifactError: the file cannot be made.
    """
    precision = str(options.get("precisions") or "fp32")
    if "," in precision:
        raise UsageError("parity export makes one file: one --precision.")
    if deployment is None or not deployment.wanted:
        return _from_store(options, out)
    return _deploy(options, out, deployment, precision)


def _from_store(options: Mapping[str, Any], out: Path) -> int:
    """Make the file of one precision and copy it out of the store."""
    request: Request = make_request({**options, "backends": None, "max_images": 1}, command="parity export")
    with tempfile.TemporaryDirectory() as scratch, ConsoleEvents(Console(stderr=True)) as events:
        plan = make_plans(request, logs=Path(scratch), events=events)[0]
        artifact = Maker(
            plan,
            logs=Path(scratch),
            limits=request.limits,
            options=request.conversion,
            progress=events.progress,
        ).artifact("onnx", request.precisions[0])
        for reason in artifact.recipe.get("gates", {}).get("refused_by_trt", ()):
            events.note(f"TensorRT would refuse this file: {reason}.")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artifact.path, out)
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror}).") from error
    _say(Console(), f"{out}: {artifact.precision} onnx, sha256 {artifact.sha256}")
    return 0


def _deploy(options: Mapping[str, Any], out: Path, deployment: Deployment, precision: str) -> int:
    if precision not in _PRECISIONS:
        raise UsageError(
            f"--precision {precision}: files with --head, --opset, --imgsz or --validate are fp32 or fp16 (--half). "
            f"Leave these out for the {precision} file that the graph runtimes run."
        )
    for name in _CONVERSION_ONLY:
        if options.get(name) is not None:
            raise UsageError(f"--{name}: has no effect on a file with --head, --opset, --imgsz or --validate.")
    request = make_request(options, command="parity export")
    reference, weights = one_model(request)
    if weights.suffix.lower() == ".onnx":
        raise UsageError(f"--weights {weights}: is exported already; another head is made from the weights in torch.")
    model = as_deployable(load_adapter(reference.target))
    chosen = choose(
        model,
        head=deployment.head,
        image_size=deployment.image_size,
        opset=deployment.opset,
        half=precision == "fp16",
        conf=deployment.conf,
        iou=deployment.iou,
        max_detections=deployment.max_detections,
    )
    meta = meta_path(out)
    _require_writable(out, meta)
    console = Console()
    with tempfile.TemporaryDirectory() as scratch, ConsoleEvents(Console(stderr=True)) as events:
        name, samples = _images(request.fixtures, model.spec.default_fixtures, deployment, events)
        made = Path(scratch) / out.name
        text = f"export {model.spec.name} {chosen.head}"
        events.stage(text + (" and compare it with torch" if deployment.validate else ""))
        with Lane(name=text, log=Path(scratch) / "export.log", limits=request.limits) as lane:
            document = lane.call(
                "deploy",
                adapter=reference.target,
                weights=weights,
                out=made,
                options=chosen,
                samples=samples,
                images_of=name,
                validate=deployment.validate,
                progress=lambda done, total: events.progress(text, done, total),
            )
        document["created_at"] = datetime.now(UTC).isoformat(timespec="seconds")
        for reason in document["gates"].get("refused_by_trt", ()):
            events.note(f"TensorRT would refuse this file: {reason}.")
        found = document["validation"]
        if found is not None:
            _show(found, console)
            if not found["passed"]:
                _say(Console(stderr=True), f"parity export: {_failure(found['first_failure'])}. {out} is not written.")
                return 1
        validate(document, "export_meta", where=str(meta))
        deliver(made, dumps(document), out)
    _say(console, f"{out}: {_summary(chosen)}, sha256 {document['file']['sha256']}")
    return 0


def meta_path(out: Path) -> Path:
    """``m.onnx`` -> ``m.onnx.meta.json``."""
    return out.with_name(out.name + META_SUFFIX)


def deliver(made: Path, document: str, out: Path) -> None:
    """Put the file and its document in place: both are whole on that disk before either gets its name.

    A document never stands beside another file than its own: an older pair is moved aside first, and put back when
    something fails.

    Raises:
        InputError: the folder cannot be written; then everything is as it was.
    """
    targets = out, meta_path(out)
    new: list[Path] = []
    old: list[tuple[Path, Path]] = []
    placed: list[Path] = []
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for target, content in zip(targets, (made.read_bytes(), document.encode()), strict=True):
            new.append(_beside(target))
            with new[-1].open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            new[-1].chmod(0o644)
        for target in reversed(targets):
            if target.exists():
                aside = target.replace(_beside(target))
                old.append((target, aside))
        for path, target in zip(new, targets, strict=True):
            placed.append(path.replace(target))
    except OSError as error:
        with suppress(OSError):
            for target in placed:
                target.unlink()
            for target, aside in old:
                aside.replace(target)
        raise InputError(
            f"{out}: cannot be written ({error.strerror}). Free space, or choose another place with --output."
        ) from error
    finally:
        for path in (*new, *(aside for _, aside in old)):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _beside(target: Path) -> Path:
    """An empty file of a new name in the same folder."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    return Path(name)


def _require_writable(out: Path, meta: Path) -> None:
    """Say before any work that the result could not be kept."""
    for path in (out, meta):
        if path.is_dir():
            raise InputError(f"--output {out}: {path} is a folder. Give the name of the file, for example m.onnx.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}."):
            pass
    except OSError as error:
        raise InputError(
            f"--output {out}: its folder cannot be written ({error.strerror}). Choose another place."
        ) from error


def _images(
    given: str | None, default: str, deployment: Deployment, events: ConsoleEvents
) -> tuple[str, Sequence[Sample]]:
    """Real images to compare on; none when nothing is compared."""
    if not deployment.validate:
        if given is not None:
            raise UsageError("--fixtures: images are used by --validate only. Add --validate, or leave it out.")
        return "", ()
    name = given or default
    events.stage(f"Opening {name}")
    found = resolve(name, progress=lambda done, total: events.progress(f"render {name}", done, total))
    if not found.samples:
        raise UsageError(f"--fixtures {name}: holds no image.")
    return found.name, found.take(VALIDATED_IMAGES).samples


def _show(validation: Mapping[str, Any], console: Console) -> None:
    """A row per comparison, a line per device and note."""
    table = Table(box=None, pad_edge=False)
    for column in ("device", "images", "batch", "tensor", "largest error", "allowed", "rms/budget", "result"):
        table.add_column(column, justify="right" if column in _NUMBERS else "left", no_wrap=True)
    for check in validation["checks"]:
        budget = check["budget"]
        share = "" if budget is None or check["rms"] is None else _share(check["rms"], budget)
        flips = f", {len(check['flips'])} explained flips" if check["flips"] else ""
        table.add_row(
            check["device"],
            check["images"],
            str(check["batch"] or ""),
            check["tensor"],
            _number(check["max_abs"]),
            _number(check["tolerance"]),
            share,
            ("ok" if check["passed"] else "DIFFERS") + flips,
        )
    wide = console if console.is_terminal else Console(width=_PIPE_COLUMNS)
    wide.print(table)
    for device, facts in validation["devices"].items():
        if "not_run" in facts:
            _say(console, f"{device}: not compared: {facts['not_run']}")
            continue
        left = f"; left to the CPU: {facts['left_to_cpu']}" if facts["left_to_cpu"] else ""
        how = ", emulated" if facts["emulated"] else ""
        _say(console, f"{device}: {facts['provider']}, {facts['precision']} arithmetic{how}{left}")
    for note in validation["notes"]:
        _say(console, note)


def _failure(check: Mapping[str, Any]) -> str:
    where = (
        f"{check['device']}, {check['images']} images, batch {check['batch']}" if check["batch"] else check["device"]
    )
    return f"the file differs from torch in {check['tensor']!r} ({where}): {check['detail']}".rstrip(".")


def _summary(options: ExportOptions) -> str:
    height, width = options.image_hw
    return f"{options.precision} onnx, head {options.head}, opset {options.opset}, input {height} x {width}"


def _number(value: Any) -> str:
    return "" if value is None else f"{float(value):.2g}"


def _share(rms: Any, budget: Any) -> str:
    return f"{float(rms) / float(budget):.2f}" if float(budget) else "0"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
