"""A whole preparation of a small model: its files, a second start, damage, interruption and publication."""

import errno
import json
import re
import shutil
import socket

import onnx
import pytest

from bench.errors import InputError
from bench.files import sha256_file
from bench.precision.calibration import read_calibration
from bench.precision.qdq import scales_of
from bench.precision.trtcache import read_cache
from bench.preparing import pipeline, steps
from bench.preparing.manifest import FILES
from bench.preparing.ranges import write_trt_cache
from bench.schema import read_json, validate_file
from bench.tests.preparing_model import make_world, typed, write_images
from bench.tests.preparing_servers import Files, Hub, serving

SECRET = "hf_tokenOfNobodyAtAll"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARITY_CACHE", str(folder / "cache"))
        patch.setenv("HF_TOKEN", SECRET)
        words = [*make_world(folder), "--calibration", folder / "photos", "--calibration-images", 8]
        assert typed(patch, *words, "--out", folder / "prepared") == 0
    return folder, words


@pytest.fixture
def folder(world, tmp_path):
    """A copy of the finished folder."""
    return shutil.copytree(world[0] / "prepared", tmp_path / "prepared")


@pytest.fixture
def prepare(world, folder, monkeypatch, capfd):
    """Type the same command for the copy; returns exit code, standard output and standard error."""
    monkeypatch.setenv("PARITY_CACHE", str(world[0] / "cache"))
    monkeypatch.setenv("no_proxy", "*")

    def again(*more, out=folder, without=()):
        words = [w for w in world[1] if w not in without]
        code = typed(monkeypatch, *words, "--out", out, *more)
        return code, *capfd.readouterr()

    return again


@pytest.fixture
def no_lanes(monkeypatch):
    """Starting a lane is a failure: nothing may be made again."""

    def refuse(*args, **kwargs):
        raise AssertionError("a lane was started")

    monkeypatch.setattr("bench.preparing.pipeline.Lane", refuse)
    monkeypatch.setattr("bench.making.Lane", refuse)


def state(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_the_folder_holds_the_seven_files_and_the_manifest_their_hashes(world):
    folder = world[0] / "prepared"
    assert {p.name for p in folder.iterdir()} == {*FILES, ".prepare.json", ".prepare.lock"}
    manifest = read_json(folder / "manifest.json")
    assert validate_file(folder / "manifest.json") == "prepared/1"
    listed = {f["name"]: (f["sha256"], f["bytes"]) for f in manifest["files"]}
    assert set(listed) == set(FILES) - {"manifest.json"}
    for name, (sha256, size) in listed.items():
        assert (sha256_file(folder / name), (folder / name).stat().st_size) == (sha256, size)
    assert manifest["calibration"]["images"] == len(manifest["calibration"]["files"]) == 8
    assert manifest["checks"]["tensorrt_executed"] is False


def test_the_calibration_is_of_the_fp32_file_and_the_cache_of_the_int8_file(world):
    folder = world[0] / "prepared"
    calibration = read_calibration(folder / "calibration.json")
    assert calibration.onnx_sha256 == sha256_file(folder / "model.onnx")
    assert (calibration.images, calibration.method, calibration.seed) == (8, "minmax", 0)
    cache = read_cache(folder / "calibration.cache")
    assert cache.header == "TRT-101601-EntropyCalibration2"
    assert cache.scales == scales_of(onnx.load(folder / "model.int8.onnx"))
    # an independent path to nearly the same scales: the conversion holds two of the images out, and gives what stands
    # in front of a ReLU the range behind it
    for name in ("images", "b", "e"):
        assert cache.scales[name] == pytest.approx(calibration.ranges[name].scale, rel=0.05)


def test_scales_of_moved_values_are_not_those_of_the_fp32_file(folder):
    ranges = read_calibration(folder / "calibration.json").ranges
    moved = {"tuning": {"equalisation": {"kept": True}}}
    facts = write_trt_cache(folder, moved, version="8601")
    cache = read_cache(folder / "calibration.cache")
    assert facts["scales_from"] == "calibration.json"
    assert cache.header == "TRT-8601-EntropyCalibration2"
    assert set(cache.scales) == set(scales_of(onnx.load(folder / "model.int8.onnx")))
    for name, scale in cache.scales.items():
        assert scale == pytest.approx(ranges[name].scale, rel=1e-6)


def test_the_card_states_what_was_and_what_was_not_done(world):
    card = (world[0] / "prepared" / "README.md").read_text()
    for words in (
        "license: mit",
        "TensorRT: **not executed**",
        "| licence | MIT |",
        "8 of photos, chosen by seed 0",
        "build_engine.py --onnx model.int8.onnx",
        "## Classes (1)",
        sha256_file(world[0] / "tiny.onnx"),
    ):
        assert words in card


def test_what_is_published_names_no_folder_of_its_maker_and_no_token(world):
    for name in FILES:
        content = (world[0] / "prepared" / name).read_bytes()
        assert SECRET.encode() not in content, name
        assert str(world[0]).encode() not in content, name


@pytest.mark.usefixtures("no_lanes")
def test_a_second_start_makes_nothing_and_changes_nothing(prepare, folder):
    before = state(folder)
    code, out, _ = prepare()
    assert code == 0
    assert "kept from an earlier start: export, int8, calibrate, cache, builder, card" in out
    assert state(folder) == before


@pytest.mark.usefixtures("no_lanes")
def test_an_equal_manifest_keeps_its_time_of_making(prepare, folder):
    path = folder / "manifest.json"
    old = '"created_at": "2020-01-01T00:00:00+00:00"'
    path.write_text(re.sub('"created_at": "[^"]*"', old, path.read_text()))
    assert prepare()[0] == 0
    assert old in path.read_text()
    path.write_text(path.read_text().replace("MIT", "other"))
    assert prepare()[0] == 0
    assert old not in path.read_text()


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx", "calibration.cache", "build_engine.py"])
def test_a_damaged_file_is_made_again_and_nothing_else(prepare, folder, name):
    before = state(folder)
    (folder / name).write_bytes(before[name][: len(before[name]) // 2])
    code, out, _ = prepare()
    assert code == 0
    after = state(folder)
    assert {n: after[n] for n in FILES if n != "manifest.json"} == {n: before[n] for n in FILES if n != "manifest.json"}
    step = {"model.onnx": "export", "model.int8.onnx": "int8", "calibration.cache": "cache"}.get(name, "builder")
    (kept,) = [line for line in out.splitlines() if line.startswith("Steps kept")]
    assert step not in kept
    assert kept.count(",") == 4


def test_an_interrupted_preparation_has_no_manifest_and_goes_on(prepare, folder, monkeypatch):
    (folder / "calibration.json").unlink()
    before = sha256_file(folder / "model.int8.onnx")

    def interrupt(*args, **kwargs):
        (folder / ".prepare-tmp-half").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_ranges", interrupt)
        assert prepare()[0] == 130
    assert not (folder / "manifest.json").exists()
    code, out, _ = prepare()
    assert code == 0
    assert "kept from an earlier start: export, int8, cache, builder, card" in out
    assert sha256_file(folder / "model.int8.onnx") == before
    assert not list(folder.glob(".prepare-tmp-*"))
    assert validate_file(folder / "manifest.json") == "prepared/1"


@pytest.mark.parametrize("content", ["", "{", '{"schema": "prepare-state/1", "steps": {"export": 3}}', "[]"])
@pytest.mark.usefixtures("world")
def test_a_damaged_record_is_not_believed(tmp_path, content):
    (tmp_path / ".prepare.json").write_text(content)
    found = steps.Steps(tmp_path)
    assert found.unreadable
    assert found.stored() == {}


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", ""])
def test_a_record_that_names_a_file_outside_is_not_believed(tmp_path, name):
    entry = {"identity": "x", "files": [{"name": name, "sha256": "0" * 64, "bytes": 1}], "facts": {}}
    (tmp_path / ".prepare.json").write_text(json.dumps({"schema": "prepare-state/1", "steps": {"export": entry}}))
    assert steps.Steps(tmp_path).unreadable


def test_a_card_that_somebody_wrote_into_is_moved_aside(prepare, folder):
    (folder / "README.md").write_text("my own words\n")
    code, _, err = prepare()
    assert code == 0
    assert (folder / "README.edited-1.md").read_text() == "my own words\n"
    assert "your version is README.edited-1.md" in err
    assert "not executed" in (folder / "README.md").read_text()


@pytest.mark.usefixtures("no_lanes")
def test_files_of_somebody_else_are_not_overwritten(prepare, tmp_path):
    other = tmp_path / "project"
    other.mkdir()
    (other / "README.md").write_text("a project\n")
    code, _, err = prepare(out=other)
    assert code == 2
    assert "holds README.md, not written by parity prepare" in err
    assert state(other) == {"README.md": b"a project\n"}


@pytest.mark.usefixtures("no_lanes")
def test_a_dry_run_touches_nothing_and_opens_no_connection(prepare, world, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    cache = tmp_path / "cache"
    monkeypatch.setenv("PARITY_CACHE", str(cache))
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "new"
    code, text, _ = prepare("--dry-run", "--hf-repo", "org/name", out=out)
    assert code == 0
    for words in ("8 of the 12 images of", "Would fetch nothing", "-> https://huggingface.co/org/name", "to be made"):
        assert words in text
    without = ("--calibration", world[0] / "photos")
    code, text, _ = prepare("--dry-run", "--calibration", "coco-train2017", out=out, without=without)
    assert code == 0
    assert "annotations_trainval2017.zip (253 MB, once)" in text
    assert "Would fetch 9 file(s)." in text
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_a_finished_folder_says_what_is_there(prepare, folder):
    code, text, _ = prepare("--dry-run", "--json")
    assert code == 0
    files = {f["name"]: f["bytes"] for s in json.loads(text)["steps"] for f in s["files"]}
    assert files == {n: (folder / n).stat().st_size for n in FILES}


def test_images_of_the_evaluation_set_are_refused_unless_forced(prepare, world, tmp_path):
    photos = shutil.copytree(world[0] / "photos", tmp_path / "leak")
    for number, path in enumerate(sorted((world[0] / "set" / "images").iterdir())[:3]):
        shutil.copy(path, photos / f"renamed{number}{path.suffix}")
    without = ("--calibration", world[0] / "photos", "--calibration-images", 8)
    code, _, err = prepare("--calibration", photos, without=without)
    assert code == 2
    assert "3 of 15 calibration images are in the evaluation set" in err
    assert "--allow-evaluation-images" in err
    code, *_ = prepare("--calibration", photos, "--allow-evaluation-images", without=without, out=tmp_path / "forced")
    assert code == 0
    manifest = read_json(tmp_path / "forced" / "manifest.json")
    assert manifest["calibration"]["evaluation_images"] == 3
    assert "**3 of the images are in the evaluation set** (forced)" in (tmp_path / "forced" / "README.md").read_text()
    assert read_calibration(tmp_path / "forced" / "calibration.json").evaluation_images == 3


def test_a_full_disk_loses_nothing(prepare, folder, monkeypatch):
    (folder / "model.int8.onnx").unlink()
    before = state(folder)

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(steps.shutil, "copyfile", full)
        code, _, err = prepare()
    assert code == 2
    assert "No space left on device" in err
    assert {k: v for k, v in before.items() if k != "manifest.json"} == state(folder)
    assert prepare()[0] == 0


def test_a_copy_that_differs_is_not_taken(folder):
    before = (folder / "model.onnx").read_bytes()
    with pytest.raises(InputError, match="has another hash"):
        steps.place(folder / "README.md", folder / "model.onnx", "0" * 64)
    assert (folder / "model.onnx").read_bytes() == before
    assert not list(folder.glob(".prepare-tmp-*"))


def test_a_model_in_two_files_is_refused_since_one_would_be_copied(prepare, world, tmp_path):
    outside = tmp_path / "outside.onnx"
    onnx.save(
        onnx.load(world[0] / "tiny.onnx"), outside, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    code, _, err = prepare("--weights", outside, without=("--weights", world[0] / "tiny.onnx"), out=tmp_path / "new")
    assert code == 2
    assert "keeps weights in other files" in err
    assert not (tmp_path / "new" / "model.onnx").exists()


@pytest.mark.usefixtures("no_lanes")
def test_without_model_onnx_there_is_no_export_to_skip(prepare, world, tmp_path):
    without = ("--weights", world[0] / "tiny.onnx")
    code, _, err = prepare("--skip-export", without=without, out=tmp_path / "empty")
    assert code == 2
    assert "--skip-export" in err
    assert "no such file" in err


def test_a_model_that_the_user_put_there_is_taken_and_never_overwritten(prepare, world, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(world[0] / "tiny.onnx", own / "model.onnx")
    code, *_ = prepare("--skip-export", "--skip-upload", without=("--weights", world[0] / "tiny.onnx"), out=own)
    assert code == 0
    assert read_json(own / "manifest.json")["weights"]["name"] == "model.onnx"
    code, _, err = prepare(out=own)
    assert code == 2
    assert "holds model.onnx, not written by parity prepare" in err


def test_two_at_once_do_not_work_in_one_folder(prepare, folder):
    with pipeline.FileLock(folder / ".prepare.lock"):
        code, _, err = prepare()
    assert code == 2
    assert "another parity prepare works in it" in err


@pytest.mark.usefixtures("no_lanes")
@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # huggingface_hub 2.4 to httpx2
def test_a_refused_publication_keeps_the_folder_and_a_second_one_only_uploads(prepare, folder, monkeypatch):
    pytest.importorskip("huggingface_hub", reason="pip install 'backend-parity[hub]'")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    hub = Hub(token=SECRET)
    with serving(hub.handler()) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        hub.fail["create"] = 403
        code, out, err = prepare("--hf-repo", "org/name")
        assert code == 2
        assert "may not write to org/name" in err
        assert SECRET not in out + err
        hub.fail.clear()
        code, out, err = prepare("--hf-repo", "org/name")
    assert code == 0
    assert f"Published: {url}/org/name (commit c0ffee)" in out
    assert SECRET not in out + err
    assert hub.committed == {n: (folder / n).read_bytes() for n in FILES}
    assert "--hf-repo org/name --hf-file model.int8.onnx" in hub.card


@pytest.mark.usefixtures("no_lanes")
def test_without_a_token_nothing_is_begun(prepare, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    code, _, err = prepare("--hf-repo", "org/name", out=tmp_path / "new")
    assert code == 2
    assert "HF_TOKEN" in err
    assert not (tmp_path / "new").exists()


def test_coco_images_are_fetched_from_a_list_and_offline_it_says_what_to_do(prepare, world, tmp_path, monkeypatch):
    names = [f"{n:04d}.png" for n in range(12)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    photos = write_images(tmp_path / "coco", 12, seed=5)
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    without = ("--calibration", world[0] / "photos", "--calibration-images", 8)
    words = ["--calibration", "coco-train2017", "--calibration-images", 4, "--calibration-list", tmp_path / "names.txt"]
    files = Files({f"/train2017/{n}": (photos / n).read_bytes() for n in names})
    out = tmp_path / "coco-out"
    with serving(files.handler()) as url:
        monkeypatch.setenv("PARITY_COCO_URL", url)
        monkeypatch.setattr("bench.preparing.download.time.sleep", lambda seconds: None)
        gone, files.files = files.files, {}
        code, _, err = prepare(*words, out=out, without=without)
        assert code == 2
        assert "4 of 4 images cannot be had" in err
        assert "--calibration DIR" in err
        assert (out / "model.onnx").is_file()
        code, _, err = prepare(*words, "--skip-calibration-download", out=out, without=without)
        assert code == 2
        assert "not all images are on this host" in err
        files.files = gone
        code, text, _ = prepare(*words, out=out, without=without)
    assert code == 0
    assert "kept from an earlier start: export" in text
    calibration = read_json(out / "manifest.json")["calibration"]
    assert calibration["set"] == "COCO train2017"
    assert calibration["images"] == 4
    assert all(sha256_file(photos / f["name"]) == f["sha256"] for f in calibration["files"])
