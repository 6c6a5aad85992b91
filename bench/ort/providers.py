"""Devices of ONNX Runtime: which providers a session is opened with, with every option that decides arithmetic.

The names of the options are those of the CUDA and TensorRT pages of onnxruntime.ai/docs/execution-providers. Nothing
here imports onnxruntime.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backends import cuda
from bench.errors import Unavailable, Unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

    from bench.types import TensorSpec

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"
"""``0`` turns TF32 off in cuBLAS, cuDNN and TensorRT; read once, when these libraries are loaded."""
_TRT_ENVIRONMENT = "ORT_TENSORRT_"
"""Variables with this prefix are provider options that no report would show."""
WEAK_TYPING = ("trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable")
"""Would let TensorRT choose a precision by speed; TensorRT 11 has no counterpart. Never set, and checked to be off."""
DECISIVE = ("device_id", "use_tf32", "cudnn_conv_algo_search")
"""Options that a session must report as they were asked for."""
_OFF = frozenset({"0", "false", ""})
_ON = frozenset({"1", "true"})
_NVIDIA = ("libcublas.so", "libcublasLt.so", "libcudnn.so", "libnvinfer.so")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A device of this backend."""

    device: str
    """As it was asked for."""
    provider: str
    """The provider that must run the graph."""
    helpers: tuple[str, ...] = ()
    """Providers that may run nodes which ``provider`` leaves over; they are listed and their share is reported."""
    gpu: int | None = None
    """Number of the GPU; None on the CPU."""

    @property
    def providers(self) -> tuple[str, ...]:
        """In the order in which a session takes them; the CPU provider is always the last resort."""
        return tuple(dict.fromkeys((self.provider, *self.helpers, CPU)))

    @property
    def memory(self) -> tuple[str, int]:
        """Device word and number of ONNX Runtime's tensors on this device: TensorRT's tensors are CUDA's."""
        return ("cpu", 0) if self.gpu is None else ("cuda", self.gpu)


def place_of(device: str) -> Place:
    """Return the place of ``cpu``, ``cuda[:N]`` or ``tensorrt[:N]``.

    Raises:
        Unsupported: another device.
    """
    if device == "cpu":
        return Place(device=device, provider=CPU)
    if (gpu := cuda.index(device)) is not None:
        return Place(device=device, provider=CUDA, gpu=gpu)
    if (gpu := cuda.index(device, kind="tensorrt")) is not None:
        return Place(device=device, provider=TENSORRT, helpers=(CUDA,), gpu=gpu)
    raise Unsupported(f"onnxrt runs on cpu, cuda[:N] and tensorrt[:N] here, not on {device!r}")


def refuse_environment(place: Place, precision: str, environment: Mapping[str, str]) -> None:
    """Refuse variables that would change the arithmetic of a provider behind its options.

    Raises:
        Unavailable: one is set; the message says what to type.
    """
    hidden = sorted(name for name in environment if name.startswith(_TRT_ENVIRONMENT))
    if place.provider == TENSORRT and hidden:
        raise Unavailable(
            f"onnxrt:{place.device}: {', '.join(hidden)} would set options of the TensorRT provider that the report "
            f"does not show. Type: unset {' '.join(hidden)}"
        )
    if place.gpu is not None and precision == "tf32" and environment.get(TF32_OVERRIDE) == "0":
        raise Unavailable(
            f"onnxrt:{place.device}: {TF32_OVERRIDE}=0 turns off the TF32 that this cell asks for. "
            f"Type: unset {TF32_OVERRIDE}"
        )


def forbid_tf32(place: Place, precision: str, environment: MutableMapping[str, str], loaded: Sequence[str]) -> None:
    """Turn TF32 off for the TensorRT provider, which has no option for it, before its libraries are loaded.

    The variable holds for the whole process; a lane is one process per cell. The CUDA provider has ``use_tf32``.

    Args:
        place: of the session that is about to be opened.
        precision: of the cell.
        environment: of this process.
        loaded: names of the shared libraries that this process has loaded.

    Raises:
        Unavailable: the libraries are loaded already and have read another value.
    """
    if place.provider != TENSORRT or precision == "tf32" or environment.get(TF32_OVERRIDE) == "0":
        return
    early = [name for name in loaded if name.startswith(_NVIDIA)]
    if early:
        raise Unavailable(
            f"onnxrt:{place.device}: TF32 can only be turned off before {early[0]} is loaded, and this process has "
            f"loaded it. Open the cell in a process of its own, or type: export {TF32_OVERRIDE}=0"
        )
    environment[TF32_OVERRIDE] = "0"


def loaded_libraries(maps: Path = Path("/proc/self/maps")) -> tuple[str, ...]:
    """File names of the shared libraries that this process has mapped, sorted; empty where the system does not say."""
    try:
        lines = maps.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
    return tuple(sorted({Path(line.split(maxsplit=5)[5]).name for line in lines if ".so" in line and "/" in line}))


def tensorrt_library(loaded: Sequence[str]) -> tuple[str, int | None]:
    """File name and major version of the TensorRT that this process has loaded, for example libnvinfer.so.11, 11.

    Returns:
        ("", None) when none is loaded; the number is None when the file name has none.
    """
    for name in loaded:
        stem, _, version = name.partition(".so")
        if stem == "libnvinfer":
            major = version.lstrip(".").partition(".")[0]
            return name, int(major) if major.isdecimal() else None
    return "", None


def provider_list(
    place: Place, precision: str, *, inputs: Sequence[TensorSpec] = (), batch: int = 1, engines: Path | None = None
) -> list[tuple[str, dict[str, str]]]:
    """Providers and options that a session is opened with, the CPU provider last.

    Args:
        place: where it runs.
        precision: of the cell; ``tf32`` allows TF32 on the CUDA provider, every other one forbids it.
        inputs: of the artefact, for TensorRT's shape profile.
        batch: largest batch of the cell.
        engines: folder for the engines of the TensorRT provider; None builds them anew for every session.
    """
    options: dict[str, dict[str, str]] = {name: {} for name in place.providers}
    if CUDA in options:
        options[CUDA] = {
            "device_id": str(place.gpu),
            "use_tf32": "1" if precision == "tf32" else "0",  # its default is on
            # EXHAUSTIVE, its default, times the algorithms and picks others at each opening. DEFAULT is one algorithm
            # for every convolution, which no deployment would run. HEURISTIC asks cuDNN's table: no clock, same answer.
            "cudnn_conv_algo_search": "HEURISTIC",
        }
    if TENSORRT in options:
        options[TENSORRT] = {"device_id": str(place.gpu), **_profile(inputs, batch), **_engine_cache(engines)}
    return list(options.items())


def unmet(
    asked: Sequence[tuple[str, Mapping[str, str]]],
    registered: Sequence[str],
    reported: Mapping[str, Mapping[str, Any]],
) -> str | None:
    """Say which provider or decisive option of ``asked`` an opened session does not have, or None.

    Args:
        asked: as ``provider_list`` returned it.
        registered: what ``get_providers`` of the session says.
        reported: what ``get_provider_options`` of the session says.
    """
    wanted = [name for name, _ in asked]
    if list(registered) != wanted:
        return f"asked for {', '.join(wanted)}, the session has {', '.join(registered) or 'none'}"
    for name, options in asked:
        has = {key: str(value) for key, value in reported.get(name, {}).items()}
        for key in (k for k in DECISIVE if k in options):
            if not _same(has.get(key), options[key]):
                return f"asked {name} for {key}={options[key]}, it says {has.get(key, 'nothing')}"
        for key in WEAK_TYPING:
            if name == TENSORRT and has.get(key, "0").lower() not in _OFF:
                return f"{name} has {key}={has[key]}: TensorRT would choose precisions by speed"
    return None


def _same(found: str | None, asked: str) -> bool:
    """``True`` is ``1``: providers report switches in either spelling."""
    if found is None or found == asked:
        return found == asked
    return any(found.lower() in words and asked.lower() in words for words in (_OFF, _ON))


def _profile(inputs: Sequence[TensorSpec], batch: int) -> dict[str, str]:
    """Shapes that an engine is built for, from one image to the whole batch.

    Without them TensorRT builds for the first shape it sees and again, in the middle of a run, for the next.
    """
    dynamic = [spec for spec in inputs if any(isinstance(axis, str) for axis in spec.shape)]
    if not dynamic:
        return {}

    def shapes(length: int) -> str:
        return ",".join(
            f"{spec.name}:{'x'.join(str(length if isinstance(axis, str) else axis) for axis in spec.shape)}"
            for spec in dynamic
        )

    return {
        "trt_profile_min_shapes": shapes(1),
        "trt_profile_opt_shapes": shapes(batch),
        "trt_profile_max_shapes": shapes(batch),
    }


def _engine_cache(folder: Path | None) -> dict[str, str]:
    if folder is None:
        return {"trt_engine_cache_enable": "0"}
    return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}
