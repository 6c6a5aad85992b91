"""`parity export` as a person types it: a file and its document, or a refusal and nothing on the disk."""

import json
import sys
import textwrap

import onnx
import pytest

from bench.__main__ import main
from bench.commands import export as command
from bench.deployment import options as exporting
from bench.errors import InputError
from bench.files import sha256_file
from bench.schema import validate_file

pytest.importorskip("torch", reason="files for deployment are made from a network in torch")

ADAPTER = """
    from adapters.yolov10.tests.spread import spread_adapter
    from adapters.yolov10 import YoloV10Adapter
    {extra}
    plain = spread_adapter((64, 64), classes=8)
    adapter = {kind}(plain.spec, plain.variant)
"""
SABOTEUR = """
    import onnx
    from onnx import numpy_helper

    class Saboteur(YoloV10Adapter):
        def export_deployment(self, weights, out, options):
            made = super().export_deployment(weights, out, options)
            model = onnx.load(str(out))
            tensor = next(t for t in model.graph.initializer if len(t.dims) == 4 and t.dims[1] > 8)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
            onnx.save(model, str(out))
            return made
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Weights, a folder of images, and two adapters: one honest, one that damages what it exports."""
    import numpy as np

    from adapters._shared.synthetic import make_image
    from adapters.yolov10.tests.spread import save_spread

    cv2 = pytest.importorskip("cv2")
    folder = tmp_path_factory.mktemp("world")
    save_spread(folder / "both.safetensors", classes=8)
    images = folder / "images"
    images.mkdir()
    notes = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "disc"}]}
    for index in range(2):
        pixels = (make_image(f"image {index}", (1, 3, 60, 80))[0].transpose(1, 2, 0) * 255).astype(np.uint8)
        cv2.imwrite(str(images / f"{index}.png"), pixels)
        notes["images"].append({"id": index, "file_name": f"{index}.png", "width": 80, "height": 60})
    (folder / "annotations.json").write_text(json.dumps(notes))
    for name, extra, kind in (("honest", "", "YoloV10Adapter"), ("saboteur", SABOTEUR, "Saboteur")):
        text = textwrap.dedent(ADAPTER).format(extra=textwrap.dedent(extra), kind=kind)
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture
def parity(monkeypatch, capfd, tmp_path, world):
    """Type ``parity export``; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ":".join(p for p in sys.path if p))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def typed(*words, adapter="honest", weights="both.safetensors"):
        given = ["parity", "export", world / f"{adapter}.py", "--weights", world / weights, *words]
        monkeypatch.setattr(sys, "argv", [str(word) for word in given])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return ended.value.code or 0, out, err

    return typed


def test_a_file_is_written_with_its_document_and_both_say_the_same(parity, tmp_path, world):
    code, out, err = parity("--head", "nms", "--max-dets", "50", "--imgsz", "64,96", "--output", "deep/m.onnx")
    assert code == 0, err
    path = tmp_path / "deep" / "m.onnx"
    meta = path.with_name("m.onnx.meta.json")
    assert sorted(p.name for p in path.parent.iterdir()) == ["m.onnx", "m.onnx.meta.json"]
    assert validate_file(meta) == "export_meta/1"
    document = json.loads(meta.read_text())
    assert document["file"] == {"name": "m.onnx", "sha256": sha256_file(path), "bytes": path.stat().st_size}
    assert document["thresholds"] == {"conf": 0.25, "iou": 0.7, "max_detections": 50}
    assert (document["opset"], document["image_size"], document["validation"]) == (18, [64, 96], None)
    assert document["checkpoint"] == {"file": "both.safetensors", "sha256": sha256_file(world / "both.safetensors")}
    inside = json.loads(onnx.load(str(path)).metadata_props[0].value)
    assert {**inside, "file": 0, "created_at": 0, "validation": 0} == {
        **document, "file": 0, "created_at": 0, "validation": 0,
    }  # fmt: skip
    assert f"deep/m.onnx: fp32 onnx, head nms, opset 18, input 64 x 96, sha256 {sha256_file(path)}" in out


def test_a_validated_fp16_file_keeps_its_comparison_in_the_document(parity, tmp_path, world):
    code, out, err = parity("--head", "topk", "--half", "--validate", "--fixtures", world, "--output", "m.onnx")
    assert code == 0, err
    document = json.loads((tmp_path / "m.onnx.meta.json").read_text())
    validation = document["validation"]
    assert validation["passed"] is True
    assert validation["file_sha256"] == document["file"]["sha256"] == sha256_file(tmp_path / "m.onnx")
    assert {c["batch"] for c in validation["checks"]} == {0, 1, 4, 8}
    assert {c["images"] for c in validation["checks"]} == {"none", "synthetic", world.name, "random boxes"}
    assert document["precision"] == "fp16"
    assert "CPUExecutionProvider" in out
    assert "2 images, repeated to fill a batch of 8" in out
    assert "DIFFERS" not in out
    assert "cuda:0: " in out, "what was not compared is said"


def test_a_file_that_differs_from_torch_is_exit_1_and_is_not_written(parity, tmp_path, world):
    (tmp_path / "m.onnx").write_bytes(b"an older file")
    code, out, err = parity(
        "--head", "dense", "--validate", "--fixtures", world, "--output", "m.onnx", adapter="saboteur"
    )
    assert code == 1
    assert "DIFFERS" in out
    assert "the file differs from torch in 'boxes_cxcywh' (cpu, synthetic images, batch 1): boxes_cxcywh[0, " in err
    assert "expected" in err
    assert "found" in err
    assert "m.onnx is not written" in err
    assert (tmp_path / "m.onnx").read_bytes() == b"an older file"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--head", "topkk"], "--head topkk: yolov10n has no such head. Did you mean 'topk'?"),
        (["--head", "topk", "--iou", ".5"], "--iou: the head 'topk' does not use it"),
        (["--head", "nms", "--conf", "1.5"], "--conf 1.5: a score threshold lies in 0..1"),
        (["--imgsz", "0"], "--imgsz 0: sides must be multiples of 32. The nearest: --imgsz 32"),
        (["--imgsz", "100"], "The nearest: --imgsz 96"),
        (["--opset", "99"], "--opset 99: this exporter writes 13 to 20"),
        (["--opset", "7"], "--opset 7: too old"),
        (["--half", "--precision", "fp32"], "--half and --precision fp32 contradict each other"),
        (["--head", "raw", "--precision", "int8"], "--precision int8: files with --head"),
        (["--head", "raw", "--exclude", "x"], "--exclude: has no effect"),
        (["--head", "raw", "--fixtures", "shapes"], "--fixtures: images are used by --validate only"),
        (["--precision", "fp32,fp16"], "makes one file: one --precision"),
    ],
)
def test_what_cannot_be_meant_is_exit_2_with_the_option_and_writes_nothing(parity, tmp_path, words, message):
    code, _, err = parity(*words, "--output", "m.onnx")
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_an_onnx_file_as_weights_is_refused(parity, tmp_path, world):
    (world / "given.onnx").write_bytes(b"")
    code, _, err = parity("--head", "raw", "--output", "m.onnx", weights="given.onnx")
    assert code == 2
    assert "given.onnx" in err


@pytest.mark.parametrize("target", ["file/m.onnx", "folder.onnx", "taken.onnx"])
def test_a_place_that_cannot_be_written_is_said_before_any_work(parity, tmp_path, monkeypatch, target):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "taken.onnx.meta.json").mkdir()
    monkeypatch.setattr(command, "Lane", None)  # not reached
    code, _, err = parity("--head", "raw", "--output", target)
    assert code == 2
    assert f"--output {target}" in err


def test_a_full_disk_leaves_neither_file_and_keeps_the_old_pair(tmp_path, monkeypatch):
    made = tmp_path / "made"
    made.write_bytes(b"new")
    out = tmp_path / "there" / "m.onnx"
    command.deliver(made, "{}", out)
    made.write_bytes(b"newer")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command.os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        command.deliver(made, "[]", out)
    assert {p.name: p.read_bytes() for p in out.parent.iterdir()} == {"m.onnx": b"new", "m.onnx.meta.json": b"{}"}


@pytest.mark.parametrize("before", [{}, {"m.onnx": b"old", "m.onnx.meta.json": b"{}"}, {"m.onnx": b"old"}])
@pytest.mark.parametrize("failing", [".onnx", ".json"])
def test_a_failure_between_the_two_files_leaves_what_was_there(tmp_path, monkeypatch, before, failing):
    made = tmp_path / "made"
    made.write_bytes(b"new")
    out = tmp_path / "there" / "m.onnx"
    out.parent.mkdir()
    for name, content in before.items():
        (out.parent / name).write_bytes(content)
    real, failed = command.Path.replace, []

    def interrupted(self, target):
        if str(target).endswith(failing) and "." + out.name in self.name and not failed:
            failed.append(target)
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(command.Path, "replace", interrupted)
    with pytest.raises(InputError, match="Input/output error"):
        command.deliver(made, "[]", out)
    assert {p.name: p.read_bytes() for p in out.parent.iterdir()} == before
    command.deliver(made, "[]", out)
    assert {p.name: p.read_bytes() for p in out.parent.iterdir()} == {"m.onnx": b"new", "m.onnx.meta.json": b"[]"}


def test_without_its_options_the_file_of_the_store_is_written(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(command, "_from_store", lambda options, out: seen.append(options["precisions"]) or 0)
    for deployment in (None, command.Deployment()):
        assert command.export_command({"precisions": "int8"}, out=tmp_path / "m.onnx", deployment=deployment) == 0
    assert seen == ["int8", "int8"]
    assert command.Deployment(validate=True).wanted
    assert command.Deployment(opset=exporting.OPSET).wanted
