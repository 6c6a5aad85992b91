"""From weights to the artefact of each precision: made once per run, kept in the store.

Exporting and converting need torch, onnx and onnxruntime: both run in a child process, like everything else that may
crash.
"""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import precision as conversion
from bench.artifacts import Store, source_sha256
from bench.errors import ArtifactError, BenchError, InputError
from bench.files import sha256_file
from bench.host import package_versions
from bench.lanes import Lane
from bench.precision.options import Conversion
from bench.registry import load_adapter
from bench.types import Artifact

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.artifacts import Made
    from bench.lanes import Limits
    from bench.matrix import ModelPlan

OPSET = 17
_TOOLS = ("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript")


class Maker:
    """Makes and remembers the artefacts of one model; a failure is remembered too and raised again."""

    def __init__(
        self,
        plan: ModelPlan,
        *,
        logs: Path,
        limits: Limits,
        store: Store | None = None,
        recording: Path | None = None,
        options: Conversion | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._plan = plan
        self._logs = logs
        self._limits = limits
        self._store = store or Store()
        self._recording = recording
        self._options = options or Conversion()
        self._progress = progress or (lambda text, done, total: None)
        self._made: dict[tuple[str, str], Artifact | BenchError] = {}

    def artifact(self, kind: str, precision: str) -> Artifact:
        """Return the artefact that a backend of this kind takes.

        An engine is built from the ONNX file by its backend, unless one was given.

        Raises:
            ArtifactError: it cannot be made.
            InputError: the given file cannot be used; OtherModelError when it holds another model.
        """
        own = kind in ("weights", "recording") or (kind == "engine" and kind in self._plan.artifacts)
        key = (kind if own else "onnx", precision)
        if key not in self._made:
            try:
                self._made[key] = self._make(*key)
            except BenchError as error:
                self._made[key] = error
        found = self._made[key]
        if isinstance(found, BenchError):
            raise found
        return found

    def _make(self, kind: str, precision: str) -> Artifact:
        if kind == "weights":
            return self._weights(precision)
        if kind == "recording":
            return self._recorded(precision)
        if kind == "engine":
            return self._engine(precision)
        if precision == "fp32":
            given = self._plan.artifacts.get("onnx") or (None if self._plan.has_module else self._plan.weights)
            return self._exported() if given is None else self._given(given)
        if precision == "tf32":  # arithmetic of a run, not of a file
            return replace(self.artifact("onnx", "fp32"), precision="tf32")
        if precision not in conversion.MADE_HERE:
            raise ArtifactError(f"no conversion makes a {precision} graph; it makes {', '.join(conversion.MADE_HERE)}.")
        return self._converted(self.artifact("onnx", "fp32"), precision)

    def _weights(self, precision: str) -> Artifact:
        spec, path = self._plan.spec, self._plan.weights
        recipe: dict[str, Any] = {"cast": precision} if precision != "fp32" else {}
        return Artifact(
            kind="weights",
            path=path,
            sha256=sha256_file(path),
            precision=precision,
            inputs=spec.inputs,
            outputs=spec.outputs,
            recipe={"tool": "weights as given", **recipe},
        )

    def _recorded(self, precision: str) -> Artifact:
        folder = self._recording
        if folder is None or not folder.is_dir():
            raise InputError(f"--recording {folder}: not a folder.")
        spec = self._plan.spec
        return Artifact(
            kind="recording",
            path=folder,
            sha256=source_hash_of_names(folder),
            precision=precision,
            inputs=spec.inputs,
            outputs=spec.outputs,
            recipe={"tool": "recorded"},
        )

    def _engine(self, precision: str) -> Artifact:
        """The given engine as it is; its tensors are compared with the spec's when it is opened."""
        spec, path = self._plan.spec, self._plan.artifacts["engine"]
        return Artifact(
            kind="engine",
            path=path,
            sha256=sha256_file(path),
            precision=precision,
            inputs=spec.inputs,
            outputs=spec.outputs,
            recipe={"tool": "given as it is", "file": path.name},
        )

    def _given(self, path: Path) -> Artifact:
        made = self._in_lane("inspect", path=path)
        return Artifact(
            kind="onnx",
            path=path,
            sha256=made.recipe["sha256"],  # external data included
            precision="fp32",
            inputs=made.inputs,
            outputs=made.outputs,
            recipe={"tool": "given as it is", "file": path.name},
        )

    def _exported(self) -> Artifact:
        weights = self._weights("fp32")
        self._progress(f"export {self._plan.spec.name}", 0, 0)
        return self._store.obtain(
            kind="onnx",
            precision="fp32",
            file_name="model.onnx",
            made_from=weights.sha256,
            identity={
                "model": self._plan.spec.name,
                "adapter": self.adapter_sha256(),
                "opset": OPSET,
                "versions": package_versions(_TOOLS),
            },
            make=lambda out: self._in_lane("export", weights=weights.path, out=out, opset=OPSET),
        )

    def _converted(self, source: Artifact, precision: str) -> Artifact:
        spec, name = self._plan.spec, f"{self._plan.spec.name} {precision}"
        identity: dict[str, Any] = {
            "model": spec.name,
            "adapter": self.adapter_sha256(),
            "converter": source_sha256(Path(conversion.__file__).parent),
            "versions": package_versions(_TOOLS),
        }
        calibration: tuple[Any, ...] = ()
        label = ""
        images = self._plan.calibration
        if images is not None and images.samples:
            calibration, label = images.samples, self._plan.calibration_label or images.name
            identity["calibration"] = [images.sha256, len(images.samples)]
        elif precision in conversion.NEEDS_CALIBRATION:
            raise ArtifactError(f"{precision} needs calibration images. Type: --calibration NAME or DIR")
        identity["options"] = self._options.identity()
        self._progress(f"make {name}", 0, 0)
        return self._store.obtain(
            kind="onnx",
            precision=precision,
            file_name="model.onnx",
            made_from=source.sha256,
            identity=identity,
            make=lambda out: self._in_lane(
                "convert",
                precision=precision,
                source=source.path,
                out=out,
                calibration=calibration,
                calibration_name=label,
                options=self._options,
                _progress=lambda done, total: self._progress(f"make {name}", done, total),
            ),
        )

    def _in_lane(self, command: str, *, _progress: Callable[[int, int], None] | None = None, **arguments: Any) -> Made:
        log = self._logs / f"make-{self._plan.spec.name}.log"
        with Lane(name=f"{command} {self._plan.spec.name}", log=log, limits=self._limits) as lane:
            made: Made = lane.call(command, adapter=self._plan.adapter.target, progress=_progress, **arguments)
            return made

    def adapter_sha256(self) -> str:
        """Hash of the adapter's sources: its whole folder, or its one file."""
        file = Path(inspect.getfile(type(load_adapter(self._plan.adapter.target))))
        return source_sha256(file.parent if file.name == "__init__.py" else file)


def source_hash_of_names(folder: Path) -> str:
    """Hash of the sorted recording names; each name is itself the hash of its input."""
    names = "\n".join(sorted(p.name for p in folder.glob("*.npz")))
    return hashlib.sha256(names.encode()).hexdigest()
