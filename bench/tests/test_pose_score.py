"""``parity score`` on files with poses."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bench.commands.score import make_options, score_command
from bench.predictions import write_predictions
from bench.tests.sample_poses import found_poses, posed_set

SET = posed_set(images=60)
NOISE = {"degrees": 6, "depth_share": 0.04, "shift_px": 1}


@pytest.fixture
def files(tmp_path):
    """Writes the set as COCO, and predictions of a name."""
    truth = {
        "images": [
            {
                "id": s.image_id,
                "file_name": s.path.name,
                "width": s.width,
                "height": s.height,
                "camera": dict(zip(("fx", "fy", "cx", "cy"), s.camera, strict=True)),
            }
            for s in SET.samples
        ],
        "annotations": list(SET.annotations),
        "categories": list(SET.categories),
    }
    (tmp_path / "posed.json").write_text(json.dumps(truth))

    def write(name, predictions=None, **how):
        path = tmp_path / name
        write_predictions(path, predictions or found_poses(SET, **how), SET, (1, 2), wrap=True, meta={})
        text = path.read_text().replace(f'"fixtures_sha256": "{SET.sha256}", ', "")
        path.write_text(text)
        return path

    return write


def score(path, tmp_path, **changes):
    names = ("fixtures", "against", "bbox_format", "task", "bootstrap", "seed", "precision", "margin")
    options = make_options(
        **{
            **dict.fromkeys(names),
            "annotations": tmp_path / "posed.json",
            "intersect": False,
            "cross_check": "none",
            "verbose": False,
            "json_out": tmp_path / "out.json",
            **changes,
        }
    )
    code = score_command(path, options)
    return code, json.loads((tmp_path / "out.json").read_text())


def test_poses_of_one_file_are_told(files, tmp_path, capsys):
    code, document = score(files("a.json", **NOISE), tmp_path)
    assert code == 0
    assert document["pose"]["verdict"] == "reference"
    assert document["pose"]["matched"] == document["pose"]["objects"] == 180
    assert "rotation, median" in capsys.readouterr().out


def test_worse_poses_fail_where_boxes_are_the_same(files, tmp_path, capsys):
    worse = files("a.json", degrees=20, depth_share=0.04, shift_px=1)
    code, document = score(worse, tmp_path, against=files("b.json", **NOISE), bootstrap=200)
    assert document["against"]["verdict"] == "passed"
    assert document["pose"]["verdict"] == "failed"
    assert code == 1
    told = capsys.readouterr()
    assert "Poses failed: rotation, median +" in told.out
    assert "digit for digit" not in told.err


def test_the_same_poses_pass(files, tmp_path):
    code, document = score(files("a.json", **NOISE), tmp_path, against=files("b.json", **NOISE), bootstrap=200)
    assert (code, document["pose"]["verdict"]) == (0, "passed")


def test_one_nan_fails_a_file_alone_and_beside_another(files, tmp_path):
    found = found_poses(SET, **NOISE)
    depth = found[3].attributes["depth_m"].copy()
    depth[1] = np.nan
    found[3] = replace(found[3], attributes={**found[3].attributes, "depth_m": depth})
    broken = files("a.json", found)
    code, document = score(broken, tmp_path)
    assert code == 1
    assert document["pose"]["broken"]["depth"] == 1
    assert score(broken, tmp_path, against=files("b.json", **NOISE), bootstrap=200)[0] == 1


def test_a_file_without_poses_beside_one_with_them_fails(files, tmp_path):
    bare = {i: replace(p, attributes=None) for i, p in found_poses(SET, **NOISE).items()}
    code, document = score(files("a.json", bare), tmp_path, against=files("b.json", **NOISE), bootstrap=200)
    assert code == 1
    assert document["pose"]["broken"]["rotation"] == 180
    code, document = score(files("b.json", **NOISE), tmp_path, against=files("a.json", bare), bootstrap=200)
    assert (code, document["pose"]["verdict"]) == (3, "undecided")


def test_files_without_poses_have_no_block(files, tmp_path):
    bare = {i: replace(p, attributes=None) for i, p in found_poses(SET).items()}
    assert score(files("a.json", bare), tmp_path)[1]["pose"] is None
