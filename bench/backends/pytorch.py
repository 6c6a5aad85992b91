"""torch: runs the model's own module, cast to the precision; the fp64 golden and the usual reference."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.backends import cuda
from bench.errors import ContractError, Unavailable, Unsupported
from bench.runner_base import RunnerBase, import_runtime
from bench.types import Bound, Evidence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.types import Array, Artifact, Cell, Feeds, Mode, Outputs, Runner

_DTYPES = {"fp64": "float64", "fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_NAMES = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_NO_INT8 = "torch:int8 is declared unsupported: precision int8 lives in a Q/DQ graph, which graph runtimes execute"
_NO_ARITHMETIC = (
    "torch:{0} needs a processor that computes in {0}; this one does not, and torch would convert around every "
    "operation. The {0} graph runs in the graph runtimes"
)
_NO_TF32 = "torch:tf32:cpu cannot exist: TF32 is arithmetic of NVIDIA GPUs (Ampere and later)"


class TorchRunner(RunnerBase):
    """A module on one device in one precision.

    Args:
        artifact: weights, with ``build`` filled in.
        cell: names precision and device.
        mode: what ``require`` said.
        threads: intra-op threads of the process.
    """

    def __init__(self, artifact: Artifact, cell: Cell, *, mode: Mode, threads: int) -> None:
        super().__init__(artifact.inputs, artifact.outputs, name=f"torch {cell.precision} {cell.device}")
        if artifact.build is None:
            raise ContractError(f"{self.name}: the artefact {artifact.path.name} has no build(); torch runs modules")
        import torch

        self._torch = torch
        self._precision = cell.precision
        self._mode = mode
        self._threads = threads
        self._dtype = getattr(torch, _DTYPES[cell.precision])
        self._device = torch.device(cell.device)
        torch.set_num_threads(threads)
        _pin_float32_arithmetic(torch, tf32=cell.precision == "tf32")
        self._module = artifact.build().to(device=self._device, dtype=self._dtype).eval()

    def _run(self, feeds: dict[str, Array]) -> Mapping[str, Array]:
        with self._torch.inference_mode():
            return self._named(self._module(*self._tensors(feeds)))

    def _bind(self, feeds: dict[str, Array]) -> Bound:
        torch, module, device = self._torch, self._module, self._device
        tensors = self._tensors(feeds, own=True)
        waits = device.type == "cuda"
        last: list[Any] = []

        def step() -> None:
            last.clear()  # before the run, so that its memory is there to be used again
            with torch.inference_mode():
                last.append(module(*tensors))
            if waits:
                torch.cuda.synchronize(device)

        def fetch() -> Outputs:
            return self._named(last[0])

        def load(feeds: Feeds) -> None:
            for tensor, fresh in zip(tensors, self._tensors(feeds), strict=True):
                tensor.copy_(fresh)
            if waits:
                torch.cuda.synchronize(device)

        return Bound(step, fetch, load)

    def _attest(self) -> Evidence:
        torch = self._torch
        parameters = Counter(_word(p.dtype) for p in self._module.parameters())
        seen: Counter[str] = Counter()

        def note(module: Any, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                seen[_word(output.dtype)] += 1

        kinds = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)
        hooks = [m.register_forward_hook(note) for m in self._module.modules() if isinstance(m, kinds)]
        zeros = {s.name: np.zeros([d if isinstance(d, int) else 1 for d in s.shape], s.dtype) for s in self.inputs}
        try:
            with torch.inference_mode():
                outputs = self._module(*self._tensors(zeros))
        finally:
            for hook in hooks:
                hook.remove()
        if not seen:  # no convolution and no linear layer: the outputs are the only witnesses
            seen.update(_word(o.dtype) for o in (outputs if isinstance(outputs, tuple | list) else [outputs]))
        observed = _NAMES.get(seen.most_common(1)[0][0], seen.most_common(1)[0][0])
        if observed == "fp32" and self._device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
            observed = "tf32"
        # The device has no arithmetic of its own for this dtype: torch stores it and computes in float32.
        emulated = self._mode == "emulated" and observed == self._precision
        devices = sorted({str(t.device) for t in self._module.parameters()}) or [str(self._device)]
        return Evidence(
            precision="fp32" if emulated else observed, provider=" + ".join(devices), emulated=emulated,
            details={"parameters": dict(parameters), "conv_linear_outputs": dict(seen), "threads": self._threads},
        )  # fmt: skip

    def _close(self) -> None:
        del self._module
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()

    def _tensors(self, feeds: Mapping[str, Array], *, own: bool = False) -> list[Any]:
        """Inputs in order, on the device, floating ones in the cell's dtype; ``own``: sharing no memory."""
        tensors = []
        for spec in self.inputs:
            # Sharing, where torch may (it warns about read-only memory): a fresh copy per run also displaces the
            # intermediate results in the heap, which cost 1 ms of 10 (FastestDet, 1 thread; the copy itself 0.03 ms).
            shared = feeds[spec.name].flags.writeable and not own
            tensor = (self._torch.from_numpy if shared else self._torch.tensor)(feeds[spec.name]).to(self._device)
            tensors.append(tensor.to(self._dtype) if tensor.is_floating_point() else tensor)
        return tensors

    def _named(self, result: Any) -> dict[str, Array]:
        """Tensor or tuple in the order of the outputs -> host arrays; numpy has no bfloat16, so halves widen here."""
        tensors = list(result) if isinstance(result, tuple | list) else [result]
        if len(tensors) != len(self.outputs) or not all(isinstance(t, self._torch.Tensor) for t in tensors):
            names = ", ".join(spec.name for spec in self.outputs)
            got = ", ".join(type(t).__name__ for t in tensors)
            raise ContractError(f"{self.name}: forward must return a tuple of tensors ({names}), got ({got})")
        arrays = {}
        for spec, tensor in zip(self.outputs, tensors, strict=True):
            narrow = tensor.dtype in (self._torch.float16, self._torch.bfloat16)
            arrays[spec.name] = (tensor.float() if narrow else tensor).cpu().numpy()
        return arrays


class TorchBackend:
    """PyTorch, eager, in inference mode."""

    name = "torch"
    aliases = ("pytorch",)
    artifact_kind = "weights"
    precisions = ("fp64", "fp32", "tf32", "fp16", "bf16")
    measures_speed = True

    def require(self, device: str, precision: str) -> Mode:
        """Say whether this device computes in ``precision`` or only stores it.

        Raises:
            Unsupported: int8, tf32 on a CPU, an unknown device.
            Unavailable: torch or the GPU is missing.
        """
        if precision not in self.precisions:
            raise Unsupported(_NO_INT8 if precision == "int8" else f"torch: unknown precision {precision!r}")
        number = cuda.index(device)
        if device != "cpu" and number is None:
            raise Unsupported(f"torch runs on cpu and cuda[:N] here, not on {device!r}")
        if device == "cpu" and precision == "tf32":
            raise Unsupported(_NO_TF32)
        torch = import_runtime("torch", backend=self.name, package="torch")
        return _on_cpu(torch, precision) if number is None else _on_cuda(torch, precision, number)

    def version(self) -> str:
        """For example ``torch 2.13.0+cpu``."""
        return f"torch {import_runtime('torch', backend=self.name, package='torch').__version__}"

    def prepare(self, artifact: Artifact, cell: Cell, store: Any) -> Artifact:
        """Identity: the cast happens on loading and is part of the artefact's recipe."""
        return artifact

    def open(self, artifact: Artifact, cell: Cell, *, threads: int) -> Runner:
        """Build the module, cast it and move it.

        Raises:
            ContractError: the artefact cannot be built as a module.
            Unavailable, Unsupported: as ``require``; never another device than the one asked for.
        """
        return TorchRunner(artifact, cell, mode=self.require(cell.device, cell.precision), threads=threads)


def _on_cpu(torch: Any, precision: str) -> Mode:
    """Ask oneDNN whether there is arithmetic for this dtype (avx512_bf16 or AMX; avx512_fp16 or AMX).

    Checked with its verbose log: with avx512_bf16 and no fp16 arithmetic, a bf16 convolution runs as
    ``jit_bf16:avx512_core_bf16``, an fp16 one never reaches oneDNN: yolov10n then took 17 times as long as in fp32.
    """
    if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise Unsupported(_NO_ARITHMETIC.format("bf16"))
    if precision == "fp16" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise Unsupported(_NO_ARITHMETIC.format("fp16"))
    return "native"


def _on_cuda(torch: Any, precision: str, number: int) -> Mode:
    if not torch.cuda.is_available():
        why = "is a CPU build" if torch.version.cuda is None else cuda.problem() or "sees no usable GPU"
        raise Unavailable(f"torch:cuda: this torch ({torch.__version__}) {why}. Type: --devices cpu, or install a CUDA "
                          "build of torch (https://pytorch.org/get-started)")  # fmt: skip
    if number >= torch.cuda.device_count():
        raise Unavailable(f"torch:cuda:{number}: this host has {torch.cuda.device_count()} GPU(s), counted from 0")
    if precision == "tf32" and torch.cuda.get_device_capability(number)[0] < 8:
        raise Unsupported(f"{torch.cuda.get_device_name(number)} has no TF32 arithmetic (Ampere and later have)")
    if precision == "bf16" and torch.cuda.get_device_capability(number)[0] < 8:
        return "emulated"
    return "native"


def _pin_float32_arithmetic(torch: Any, *, tf32: bool) -> None:
    """Set what torch leaves open: cudnn convolutions use TF32 unless told not to; autotuning is not repeatable."""
    torch.set_float32_matmul_precision("highest")  # on a CPU "medium" would mean bf16
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _word(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


backend = TorchBackend()
