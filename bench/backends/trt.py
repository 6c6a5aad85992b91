"""TensorRT 10 and 11: builds an engine from the shared ONNX file, keeps it in the store, and runs it.

The library is imported in a lane only, after the CUDA driver answered and a child process survived the first call:
without a working driver TensorRT ends the process, and no ``except`` can catch that.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.artifacts import Made
from bench.backends import cuda
from bench.errors import ArtifactError, Unavailable, Unsupported
from bench.trt import guard
from bench.trt.hostkey import engine_identity, read_host
from bench.trt.job import run_build
from bench.trt.memory import open_memory, usable_library
from bench.trt.options import BuildOptions
from bench.trt.runner import TensorRTRunner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.trt.hostkey import HostKey
    from bench.trt.memory import Memory
    from bench.types import Artifact, Cell, Mode, Runner

INSTALL = "Type: pip install 'backend-parity[trt]', on a machine with an NVIDIA GPU"
_AMPERE = 8.0
"""Compute capability from which GPUs have TF32 and bfloat16 arithmetic."""


class Access:
    """What the backend asks this machine; ``bench.testing.trt_fake_backend`` gives other answers."""

    note = ""
    """Follows the name of the provider in the evidence."""

    def package(self) -> str | None:
        """Version of the installed package, None without one."""
        for name in ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
            try:
                return metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return "of unknown version" if _installed() else None

    def problem(self, number: int) -> str | None:
        """Why CUDA cannot be used on GPU ``number``, or None."""
        return cuda.problem(number)

    def memory_problem(self) -> str | None:
        """Why there is no library for device memory, or None."""
        return usable_library()

    def first_call(self) -> str:
        """Survive the first call of the library; return its version. Unavailable when it crashes."""
        return guard.first_call()

    def host(self, version: str, number: int) -> HostKey:
        """GPU and driver, with this version of TensorRT."""
        return read_host(version, device=number)

    def memory(self, number: int) -> Memory:
        """Open a GPU."""
        return open_memory(number)

    def load(self) -> Any:
        """Import ``tensorrt``."""
        import tensorrt

        return tensorrt

    def build(self, onnx: Path, options: BuildOptions, engine: Path, number: int) -> tuple[bytes, dict[str, Any]]:
        """Build in a child process; the engine and what is known about it."""
        return run_build(onnx, options, engine_name=Path(engine.name), scratch=engine.parent, device=number)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRTBackend:
    """NVIDIA TensorRT engines.

    ``cuda_graph`` replays recorded launches while timing. It is another backend (``--backends
    bench.backends.trt:graph_backend``), so that both can stand in one report.
    """

    name: str = "trt"
    aliases: tuple[str, ...] = ("tensorrt",)
    artifact_kind: str = "engine"
    precisions: tuple[str, ...] = ("fp32", "tf32", "fp16", "bf16", "int8")
    measures_speed: bool = True
    cuda_graph: bool = False
    access: Access = field(default_factory=Access)

    def require(self, device: str, precision: str) -> Mode:
        """Say that this host runs engines; the first reason against it that holds.

        Raises:
            Unsupported: TensorRT has no such precision, runs on no such device, or this GPU has no such arithmetic.
            Unavailable: no package, no CUDA driver or GPU, a library that crashes, nothing to manage memory with.
        """
        if precision not in self.precisions:
            raise Unsupported(f"trt:{precision} cannot exist: TensorRT has {', '.join(self.precisions)}")
        number = cuda.index(device)
        problem = self.access.problem(number or 0)
        if self.access.package() is None:
            raise Unavailable(_missing() + (f" (here: {problem})" if problem else ""))
        if problem:
            raise Unavailable(f"trt: the package tensorrt is installed, but {problem}")
        if number is None:
            raise Unsupported(f"trt runs on cuda[:N], not on {device!r}. Type: --devices cuda:0")
        if trouble := self.access.memory_problem():
            raise Unavailable(f"trt: {trouble}")
        host = self.access.host(self.access.first_call(), number)
        if precision in ("tf32", "bf16") and float(host.compute_capability) < _AMPERE:
            raise Unsupported(
                f"trt:{precision}: {host.gpu} (compute capability {host.compute_capability}) has no such arithmetic, "
                f"which came with {_AMPERE}"
            )
        return "native"

    def version(self) -> str:
        """Version of the installed package, from its metadata.

        Raises:
            Unavailable: it is not installed.
        """
        found = self.access.package()
        if found is None:
            raise Unavailable(_missing())
        return f"tensorrt {found}"

    def prepare(self, artifact: Artifact, cell: Cell, store: Any) -> Artifact:
        """Build the engine of an ONNX file, or find it in the store; an engine is taken as it is.

        Its key is the ONNX file, TensorRT, GPU, driver and every option: an engine of another machine is never found, a
        damaged one is built again.

        Raises:
            Unsupported: the file cannot be given to TensorRT, with the reason.
            ArtifactError: TensorRT does not build it.
            Unavailable: as ``require``.
        """
        self.require(cell.device, cell.precision)
        if artifact.kind == self.artifact_kind:
            return artifact
        version, number = self.access.first_call(), cuda.index(cell.device) or 0
        _refuse(artifact, version)
        host = self.access.host(version, number)
        options = options_for(artifact, cell)
        engine: Artifact = store.obtain(
            kind=self.artifact_kind,
            precision=cell.precision,
            file_name="model.engine",
            made_from=artifact.sha256,
            identity=engine_identity(artifact.sha256, host, options),
            make=lambda out: self._make(artifact, options, out, number),
        )
        return engine

    def open(self, artifact: Artifact, cell: Cell, *, threads: int) -> Runner:
        """Load the engine.

        Raises:
            ArtifactError: truncated, of another GPU or version, or its tensors are not the declared ones.
            LaneError: the device fails or has not enough memory.
            Unavailable, Unsupported: as ``require``.
        """
        self.require(cell.device, cell.precision)
        number = cuda.index(cell.device) or 0
        _refuse_stranger(artifact, self.access.host(self.access.first_call(), number))
        # The memory first: it makes the primary context that TensorRT then shares.
        memory = self.access.memory(number)
        try:
            trt = self.access.load()
        except (ImportError, OSError) as error:
            memory.close()
            raise Unavailable(f"trt: the package tensorrt cannot be loaded: {error}. {INSTALL}") from error
        return TensorRTRunner(trt, artifact, cell, memory=memory, cuda_graph=self.cuda_graph, note=self.access.note)

    def _make(self, artifact: Artifact, options: BuildOptions, out: Path, number: int) -> Made:
        plan, facts = self.access.build(artifact.path, options, out, number)
        out.write_bytes(plan)
        return Made(inputs=artifact.inputs, outputs=artifact.outputs, recipe=recipe_of(artifact, options, facts))


def options_for(artifact: Artifact, cell: Cell) -> BuildOptions:
    """What a cell's engine is built with: batches up to the cell's, TF32 for ``tf32`` alone.

    No timing cache: rebuilds that share one would hide how much builds differ.
    """
    batches = (1, 1, 1) if artifact.static_batch is not None else (1, cell.batch, cell.batch)
    return BuildOptions(tf32=cell.precision == "tf32", batches=batches)


def recipe_of(artifact: Artifact, options: BuildOptions, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside an engine in the store: how it was made, and what TensorRT said. Layers stay in the engine."""
    from bench.trt.graphfile import read_graph_file

    said = {name: value for name, value in facts.items() if name != "layers"}
    # Names instead of this machine's folders: the store's are not those of whoever repeats it.
    said["trtexec"] = {k: line.replace(str(artifact.path), artifact.path.name) for k, line in facts["trtexec"].items()}
    return {
        "tool": f"tensorrt {facts['tensorrt']}",
        "compute_nodes": dict(read_graph_file(artifact.path).compute),
        "options": options.identity(),
        "onnx_recipe": dict(artifact.recipe),
        **said,
    }


def _refuse(artifact: Artifact, version: str) -> None:
    """Refuse files that TensorRT would misread, before a build of minutes.

    Raises:
        Unsupported: with every reason.
        ArtifactError: it is no ONNX file.
    """
    from bench.precision.lint import lint

    if artifact.kind != "onnx":
        raise ArtifactError(f"{artifact.path}: an engine is built from an ONNX file, this is {artifact.kind}")
    if reasons := lint(artifact.path, runtime="trt", version=version):
        raise Unsupported(f"trt: {artifact.path.name}: {'; '.join(reasons)}")


def _refuse_stranger(artifact: Artifact, host: HostKey) -> None:
    """Refuse an engine whose record names another TensorRT, GPU or driver.

    Raises:
        ArtifactError: names both.
    """
    made_on = artifact.recipe.get("host")
    here = host.identity()
    if not isinstance(made_on, dict):
        return
    if other := [f"{name} {made_on[name]}" for name in sorted(here) if name in made_on and made_on[name] != here[name]]:
        ours = [f"{name} {here[name]}" for name in sorted(here) if made_on.get(name) != here[name]]
        raise ArtifactError(
            f"{artifact.path}: this engine was built with {', '.join(other)}; here: {', '.join(ours)}. Give the ONNX "
            "file instead: the engine is then built here"
        )


def _installed() -> bool:
    try:
        return importlib.util.find_spec("tensorrt") is not None
    except ValueError:  # sys.modules["tensorrt"] is None: the import system's way to block a package
        return False


def _missing() -> str:
    return f"trt needs the package tensorrt, which is not installed. {INSTALL}"


backend = TensorRTBackend()
graph_backend = replace(backend, name="trt-graph", aliases=(), cuda_graph=True)
