"""Goldens are written, read back, and hold every later run to them."""

import dataclasses
import json

import pytest

from bench import testing
from bench.errors import InputError
from bench.goldens import committed_row, make_goldens, read_goldens, write_goldens
from bench.passes import prepare
from bench.runner_base import feed_key
from bench.schema import validate_file


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return testing.fake_fixtures(tmp_path_factory.mktemp("fake"), 10)


@pytest.fixture
def spec(images, tmp_path):
    write_goldens(make_goldens(testing.fake_adapter, images), tmp_path / "made" / "goldens.json")
    return dataclasses.replace(testing.fake_adapter.spec, preprocess_goldens=tmp_path / "made" / "goldens.json")


def hashes(adapter, images):
    return {s.image_id: feed_key(prepare(adapter, s)[0]) for s in images.samples}


def test_what_is_written_is_valid_and_read_back(spec):
    assert validate_file(spec.preprocess_goldens) == "preprocess_goldens/1"
    assert len(read_goldens(spec.preprocess_goldens).hashes) == 8


def test_the_same_preprocessing_passes_and_swapped_channels_fail(spec, images):
    assert committed_row(spec, images, hashes(testing.fake_adapter, images)).passed is True
    swapped = testing.sabotage_adapter(testing.fake_adapter, preprocess=lambda image, honest: honest(image[..., ::-1]))
    row = committed_row(spec, images, hashes(swapped, images))
    assert (row.passed, row.mismatched) == (False, 6), "two images are green only"


def test_a_model_without_goldens_has_no_row(images):
    assert committed_row(testing.fake_adapter.spec, images, {}) is None


def test_a_missing_or_foreign_file_is_refused_by_name(spec, images):
    path = spec.preprocess_goldens
    path.write_text(json.dumps({"schema": "preprocess_goldens/1"}))
    with pytest.raises(InputError, match=r"goldens\.json"):
        committed_row(spec, images, {})
    path.unlink()
    with pytest.raises(InputError, match=r"goldens\.json: cannot be read"):
        committed_row(spec, images, {})
