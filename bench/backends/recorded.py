"""Replay of raw outputs: a folder of .npz files, one per preprocessed image, named by the hash of its tensor."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ArtifactError, ContractError, Unsupported
from bench.runner_base import RunnerBase, feed_key
from bench.types import PRECISIONS, Evidence

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench.types import Array, Artifact, Bound, Cell, Feeds, Mode, Outputs, Runner


def record(folder: Path, feeds: Feeds, outputs: Mapping[str, Array]) -> list[Path]:
    """Write the outputs of each image of a batch; the same image overwrites itself.

    Args:
        folder: made when absent.
        feeds: preprocessed images, batch first.
        outputs: what a runner returned for them, batch first.

    Returns:
        One path per image, ``<feed_key of the image at B = 1>.npz``.

    Raises:
        ContractError: outputs whose first axis is not the batch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = _images(feeds)
    paths = []
    for name, value in outputs.items():
        if value.ndim == 0 or value.shape[0] != len(images):
            raise ContractError(f"record: output {name!r} is {value.shape}, its first axis must be {len(images)}")
    for index, image in enumerate(images):
        path = folder / f"{feed_key(image)}.npz"
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {name: value[index : index + 1] for name, value in outputs.items()}
        np.savez(buffer, **arrays)
        partial = path.with_suffix(".part")
        partial.write_bytes(buffer.getvalue())
        partial.replace(path)
        paths.append(path)
    return paths


class RecordedRunner(RunnerBase):
    """Looks outputs up by the hash of the preprocessed tensor."""

    def __init__(self, artifact: Artifact, device: str) -> None:
        super().__init__(artifact.inputs, artifact.outputs, name=f"recorded {artifact.path.name}")
        self._folder = artifact.path
        self._precision = artifact.precision
        self._device = device

    def _run(self, feeds: dict[str, Array]) -> Outputs:
        found = [self._read(feed_key(image)) for image in _images(feeds)]
        return {spec.name: np.concatenate([f[spec.name] for f in found], axis=0) for spec in self.outputs}

    def _bind(self, feeds: dict[str, Array]) -> Bound:
        raise Unsupported("recorded outputs have no speed")

    def _attest(self) -> Evidence:
        count = sum(1 for _ in self._folder.glob("*.npz"))
        # The label of a recording cannot be checked: whoever recorded it attested it.
        return Evidence(precision=self._precision, provider=f"recorded ({self._device})", emulated=False,
                        details={"recordings": count, "attested_by": "the recording"})  # fmt: skip

    def _close(self) -> None:
        pass

    def _read(self, key: str) -> dict[str, Array]:
        path = self._folder / f"{key}.npz"
        if not path.exists():
            raise ContractError(
                f"{self.name}: no recording for the preprocessed tensor {key[:12]}... in {self._folder}. "
                "The image or the preprocessing differs from when it was recorded; record it again"
            )
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise ContractError(f"{path}: leads out of the recording folder; a recording is a plain file inside it")
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, TypeError) as error:
            raise ArtifactError(f"{path}: not a readable recording ({error}). Record it again") from error
        for spec in self.outputs:
            if spec.name not in arrays:
                held = ", ".join(sorted(arrays)) or "nothing"
                raise ContractError(f"{path}: holds {held}, but the model has an output {spec.name!r}")
        return arrays


class RecordedBackend:
    """Outputs that were recorded elsewhere, for example on a machine with another runtime."""

    name = "recorded"
    aliases: tuple[str, ...] = ()
    artifact_kind = "recording"
    precisions = PRECISIONS
    measures_speed = False

    def require(self, device: str, precision: str) -> Mode:
        """Everything can have been recorded; the folder is checked by ``open``."""
        if precision not in self.precisions:
            raise Unsupported(f"recorded: unknown precision {precision!r}; known: {', '.join(self.precisions)}")
        return "native"

    def version(self) -> str:
        """Format of the recording."""
        return "recording/1"

    def prepare(self, artifact: Artifact, cell: Cell, store: Any) -> Artifact:
        """Identity."""
        return artifact

    def open(self, artifact: Artifact, cell: Cell, *, threads: int) -> Runner:
        """Take a folder of recordings.

        Raises:
            ArtifactError: not a folder, or it holds no recording.
        """
        if not artifact.path.is_dir():
            raise ArtifactError(f"{artifact.path}: not a folder of recordings. Type: --recording DIR")
        if next(artifact.path.glob("*.npz"), None) is None:
            raise ArtifactError(f"{artifact.path}: holds no recording (*.npz)")
        return RecordedRunner(artifact, cell.device)


def _images(feeds: Feeds) -> list[dict[str, Array]]:
    """Split a batch into its images, B = 1 each."""
    count = next(iter(feeds.values())).shape[0]
    return [{name: value[i : i + 1] for name, value in feeds.items()} for i in range(count)]


backend = RecordedBackend()
