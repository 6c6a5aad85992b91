"""TensorRT: says precisely what keeps this host from running it.

The library is never imported here: without a working CUDA driver it ends the process with a segmentation fault that
no ``except`` can catch (measured with the 11.4 lean runtime: status -11 after "CUDA initialization failure").
"""

from __future__ import annotations

import importlib.util
from importlib import metadata
from typing import TYPE_CHECKING, Any, NoReturn

from bench.backends import cuda
from bench.errors import Unavailable, Unsupported

if TYPE_CHECKING:
    from bench.types import Artifact, Cell, Mode, Runner

INSTALL = "Type: pip install tensorrt, on a machine with an NVIDIA GPU"
NOT_EXECUTED = (
    "trt: the package tensorrt and a GPU are here, but running engines arrives with the TensorRT runner; "
    "this version does not execute TensorRT"
)


class TensorRTBackend:
    """NVIDIA TensorRT engines."""

    name = "trt"
    aliases = ("tensorrt",)
    artifact_kind = "engine"
    precisions = ("fp32", "tf32", "fp16", "bf16", "int8")
    measures_speed = True

    def require(self, device: str, precision: str) -> Mode:
        """Always raises: the first reason that holds on this host.

        Raises:
            Unsupported: TensorRT has no such precision.
            Unavailable: no package, no CUDA driver or GPU, or no runner yet.
        """
        if precision not in self.precisions:
            raise Unsupported(f"trt:{precision} cannot exist: TensorRT has {', '.join(self.precisions)}")
        self._refuse()

    def version(self) -> str:
        """Version of the installed package, from its metadata.

        Raises:
            Unavailable: it is not installed.
        """
        try:
            return f"tensorrt {metadata.version('tensorrt')}"
        except metadata.PackageNotFoundError as error:
            raise Unavailable(_missing()) from error

    def prepare(self, artifact: Artifact, cell: Cell, store: Any) -> Artifact:
        """Raises Unavailable, as ``require`` does."""
        self._refuse()

    def open(self, artifact: Artifact, cell: Cell, *, threads: int) -> Runner:
        """Raises Unavailable, as ``require`` does."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        problem = cuda.problem()
        if not _installed():
            raise Unavailable(_missing() + (f" (here: {problem})" if problem else ""))
        if problem:
            raise Unavailable(f"trt: the package tensorrt is installed, but {problem}")
        raise Unavailable(NOT_EXECUTED)


def _installed() -> bool:
    try:
        return importlib.util.find_spec("tensorrt") is not None
    except ValueError:  # sys.modules["tensorrt"] is None: the import system's way to block a package
        return False


def _missing() -> str:
    return f"trt needs the package tensorrt, which is not installed. {INSTALL}"


backend = TensorRTBackend()
