from __future__ import annotations

import hashlib
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from bench.backends.recorded import backend, record
from bench.errors import ArtifactError, ContractError, Unsupported
from bench.runner_base import feed_key
from bench.testing.artifacts import contract_artifact, contract_cell, contract_feeds, contract_outputs


@pytest.fixture
def artifact(tmp_path):
    return contract_artifact("recording", tmp_path)


@pytest.fixture
def runner(artifact):
    with backend.open(artifact, contract_cell("recorded"), threads=1) as opened:
        yield opened


def first_file(artifact):
    return artifact.path / f"{feed_key({'images': contract_feeds(4)['images'][:1]})}.npz"


def test_a_batch_is_recorded_image_by_image_and_replayed_bit_by_bit_in_any_order(artifact, runner):
    assert len(list(artifact.path.iterdir())) == 4
    feeds = contract_feeds(4)
    expected = contract_outputs(feeds)
    order = [2, 0, 3]
    outputs = runner.run({"images": feeds["images"][order]})
    for name, value in outputs.items():
        np.testing.assert_array_equal(value, expected[name][order])


def test_an_unknown_tensor_is_an_error_that_says_what_differs(runner):
    with pytest.raises(ContractError, match=r"no recording for the preprocessed tensor [0-9a-f]{12}\.\.\."):
        runner.run({"images": contract_feeds(1)["images"] + np.float32(1e-7)})


def test_nothing_is_unpickled(artifact, runner):
    path = first_file(artifact)

    class Bomb:
        def __reduce__(self):
            return print, ("executed",)

    np.savez(path, maps=np.array([Bomb()], dtype=object), means=np.zeros((1, 4), np.float32))
    with pytest.raises(ArtifactError, match="not a readable recording"):
        runner.run({"images": contract_feeds(4)["images"][:1]})
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ArtifactError, match="not a readable recording"):
        runner.run({"images": contract_feeds(4)["images"][:1]})


def test_a_truncated_recording_is_named(artifact, runner):
    path = first_file(artifact)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArtifactError, match=path.name):
        runner.run({"images": contract_feeds(4)["images"][:1]})
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(ArtifactError, match="not a readable recording"):
        runner.run({"images": contract_feeds(4)["images"][:1]})


def test_a_recording_of_another_model_is_named(artifact, runner):
    np.savez(first_file(artifact), logits=np.zeros((1, 4), np.float32))
    with pytest.raises(ContractError, match="holds logits, but the model has an output 'maps'"):
        runner.run({"images": contract_feeds(4)["images"][:1]})


def test_a_link_out_of_the_folder_is_refused(artifact, runner, tmp_path):
    path = first_file(artifact)
    outside = tmp_path / "outside.npz"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(ContractError, match="leads out of the recording folder"):
        runner.run({"images": contract_feeds(4)["images"][:1]})


def test_outputs_that_do_not_belong_to_the_batch_are_not_recorded(tmp_path):
    with pytest.raises(ContractError, match=r"output 'maps' is \(2, 1\), its first axis must be 4"):
        record(tmp_path, contract_feeds(4), {"maps": np.zeros((2, 1))})


def test_the_same_recording_gives_the_same_bytes(tmp_path):
    feeds = contract_feeds(1)
    (path,) = record(tmp_path, feeds, contract_outputs(feeds))
    once = hashlib.sha256(path.read_bytes()).hexdigest()
    record(tmp_path, feeds, contract_outputs(feeds))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == once
    assert zipfile.is_zipfile(path)


def test_speed_is_unsupported(runner):
    assert backend.measures_speed is False
    with pytest.raises(Unsupported, match="recorded outputs have no speed"):
        runner.bind(contract_feeds(4))


def test_a_folder_without_recordings_is_refused(artifact, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ArtifactError, match="holds no recording"):
        backend.open(replace(artifact, path=empty), contract_cell("recorded"), threads=1)
    with pytest.raises(ArtifactError, match="--recording DIR"):
        backend.open(replace(artifact, path=tmp_path / "none"), contract_cell("recorded"), threads=1)
