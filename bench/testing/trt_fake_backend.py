"""The TensorRT backend over the fake library: a whole cell goes through prepare, open, run, bind and attest in numpy.

    parity run --backends bench.testing.trt_fake_backend:backend --devices cuda:0 ...

Every version that it reports has the word fake in it. It shows that the code holds together, nothing about TensorRT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.backends.trt import Access, TensorRTBackend
from bench.testing.cuda_fake import FakeDevice
from bench.testing.cuda_libraries import fake_cuda_python, importer
from bench.testing.trt_fake import World, fake_tensorrt
from bench.trt.build import build_engine
from bench.trt.hostkey import HostKey
from bench.trt.job import facts_of
from bench.trt.memory import Memory, open_memory

if TYPE_CHECKING:
    from pathlib import Path

    from bench.trt.options import BuildOptions


class FakeAccess(Access):
    """A machine with one fake GPU.

    Args:
        version: of TensorRT; one of the manifest.
        capability: compute capability of the GPU.
    """

    note = " (fake, in numpy)"

    def __init__(self, version: str, *, capability: str = "9.0") -> None:
        self.world: World = fake_tensorrt(version, device=FakeDevice())
        self.capability = capability
        self.libraries = fake_cuda_python(self.world.device)

    def package(self) -> str | None:
        """The version, marked."""
        return f"{self.world.version}{self.note}"

    def problem(self, number: int) -> str | None:
        """One GPU is there."""
        return None if number == 0 else f"this host has no GPU {number}: the fake has one"

    def memory_problem(self) -> str | None:
        """None."""
        return None

    def first_call(self) -> str:
        """The version."""
        return self.world.version

    def host(self, version: str, number: int) -> HostKey:
        """The fake GPU."""
        return HostKey(tensorrt=version, gpu=self.world.gpu, compute_capability=self.capability, driver="fake")

    def memory(self, number: int) -> Memory:
        """Memory of the fake GPU, through the fake cuda-python."""
        return open_memory(number, find=importer(self.libraries))

    def load(self) -> Any:
        """The fake library."""
        return self.world.module

    def build(self, onnx: Path, options: BuildOptions, engine: Path, number: int) -> tuple[bytes, dict[str, Any]]:
        """Build here: nothing can crash."""
        host = self.host(self.world.version, number)
        built = build_engine(self.world.module, onnx, options, host=host, engine_name=engine.name)
        return built.plan, facts_of(built, host)


backend = TensorRTBackend(name="trt-fake", aliases=(), access=FakeAccess("11.4.0.106"))
backend_10 = TensorRTBackend(name="trt-fake-10", aliases=(), access=FakeAccess("10.16.1.11"))
graph_backend = TensorRTBackend(name="trt-fake-graph", aliases=(), cuda_graph=True, access=FakeAccess("11.4.0.106"))
