"""The network that every backend must run alike: one artefact per kind, its inputs, and its outputs by numpy.

``suites/test_contract.py`` runs it over every registered backend; a backend of another package can do the same.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import Unsupported
from bench.files import sha256_file
from bench.types import Artifact, Cell, TensorSpec

if TYPE_CHECKING:
    from bench.types import Array

CHANNELS = 4
_OPSET = 17
_IR_VERSION = 8


def contract_weights() -> dict[str, Array]:
    """Weights of conv(3 -> 4, 3 x 3, padding 1): ``weight`` (4, 3, 3, 3) and ``bias`` (4,), float32."""
    generator = np.random.default_rng(7)
    return {"weight": generator.normal(0, 0.3, (CHANNELS, 3, 3, 3)).astype(np.float32),
            "bias": generator.normal(0, 0.3, CHANNELS).astype(np.float32)}  # fmt: skip


def contract_feeds(batch: int, *, side: int = 8, seed: int = 1) -> dict[str, Array]:
    """``images`` (batch, 3, side, side) float32 in 0..1."""
    return {"images": np.random.default_rng(seed).random((batch, 3, side, side), dtype=np.float32)}


def contract_outputs(feeds: dict[str, Array]) -> dict[str, Array]:
    """What a runtime must return, float32: ``maps`` = relu(conv(images)) (B, 4, H, W), their ``means`` (B, 4)."""
    weights = {name: value.astype(np.float64) for name, value in contract_weights().items()}
    padded = np.pad(feeds["images"].astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    maps = np.einsum("bchwij,ocij->bohw", windows, weights["weight"]) + weights["bias"][:, None, None]
    maps = np.maximum(maps, 0)
    return {"maps": maps.astype(np.float32), "means": maps.mean(axis=(2, 3)).astype(np.float32)}


def contract_artifact(kind: str, folder: Path, *, batch: int | None = None, side: int = 8) -> Artifact:
    """Make the network as an artefact of ``kind`` in ``folder``.

    Args:
        kind: ``weights``, ``onnx`` or ``recording`` (of ``contract_feeds(4)``).
        folder: an existing folder.
        batch: fixed batch size, or None for a symbolic axis.
        side: height and width of the input.

    Raises:
        Unsupported: there is no such artefact for this kind.
    """
    axis: int | str = "batch" if batch is None else batch
    inputs = (TensorSpec(name="images", shape=(axis, 3, side, side), dtype="float32"),)
    outputs = (
        TensorSpec(name="maps", shape=(axis, CHANNELS, side, side), dtype="float32"),
        TensorSpec(name="means", shape=(axis, CHANNELS), dtype="float32"),
    )
    build = None
    if kind == "weights":
        path = folder / "contract.npz"
        np.savez(path, **contract_weights())  # type: ignore[arg-type]  # keywords are arrays
        build = _module
    elif kind == "onnx":
        path = folder / f"contract-{axis}-{side}.onnx"
        path.write_bytes(_onnx(inputs[0], outputs))
    elif kind == "recording":
        path = folder / "recording"
        _record(path, side)
    else:
        raise Unsupported(f"no contract artefact of kind {kind!r}")
    sha256 = sha256_file(path) if path.is_file() else hashlib.sha256(path.name.encode()).hexdigest()
    return Artifact(kind=kind, path=path, sha256=sha256, precision="fp32", inputs=inputs, outputs=outputs, build=build)


def contract_cell(backend: str, *, device: str = "cpu", precision: str = "fp32", batch: int = 1) -> Cell:
    """The cell under which the contract artefact is opened."""
    return Cell(model="contract", backend=backend, device=device, precision=precision, fixtures="none", batch=batch)


def idle_cpu_share(backend: str, folder: Path, *, threads: int = 2, idle_s: float = 1.0) -> float:
    """Share of one core that this process burns while a runner, just used, waits. Meant for a fresh process."""
    import psutil

    from bench.registry import load_backend

    runtime = load_backend(backend)
    artifact = contract_artifact(runtime.artifact_kind, folder, side=128)
    process = psutil.Process()
    with runtime.open(artifact, contract_cell(runtime.name), threads=threads) as runner:
        bound = runner.bind(contract_feeds(8, side=128))
        for _ in range(20):
            bound.step()
        before = process.cpu_times()
        time.sleep(idle_s)
        after = process.cpu_times()
    return float((after.user + after.system - before.user - before.system) / idle_s)


def _module() -> Any:
    import torch

    class Network(torch.nn.Module):
        """The contract network in torch."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, CHANNELS, 3, padding=1)
            self.conv.load_state_dict({name: torch.tensor(value) for name, value in contract_weights().items()})

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """(B, 3, H, W) -> maps (B, 4, H, W), means (B, 4)."""
            maps = torch.relu(self.conv(images))
            return maps, maps.mean(dim=(2, 3))

    return Network().eval()


def _onnx(images: TensorSpec, outputs: tuple[TensorSpec, ...]) -> bytes:
    from onnx import TensorProto, checker, helper, numpy_helper

    def info(spec: TensorSpec) -> Any:
        return helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, list(spec.shape))

    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "weight", "bias"], ["features"], "conv", pads=[1, 1, 1, 1]),
         helper.make_node("Relu", ["features"], ["maps"], "relu"),
         helper.make_node("ReduceMean", ["maps"], ["means"], "mean", axes=[2, 3], keepdims=0)],
        "contract", [info(images)], [info(spec) for spec in outputs],
        [numpy_helper.from_array(value, name) for name, value in contract_weights().items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def _record(folder: Path, side: int) -> None:
    from bench.backends.recorded import record

    feeds = contract_feeds(4, side=side)
    record(folder, feeds, contract_outputs(feeds))
