"""Files from a repository, with a fake huggingface_hub: which file, which commit, which hash, and every refusal."""

import hashlib
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from bench.errors import InputError, Unavailable, UsageError
from bench.trt.graphfile import is_inside
from bench.trt.hub import choose_file, fetch_from_hub

COMMIT = "c0ffee" * 6
TOKEN = "hf_secret"


class HttpError(Exception):
    def __init__(self, status):
        super().__init__(f"{status} for https://user:{TOKEN}@hub/repo")
        self.response = SimpleNamespace(status_code=status)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A repository as a folder; ``hub.fails`` is raised by the next call."""
    found = SimpleNamespace(folder=tmp_path, fails=None, asked=[], names=None)

    def model_info(repo, *, revision):
        found.asked.append((repo, revision))
        if found.fails:
            raise found.fails
        names = found.names or sorted(p.name for p in tmp_path.iterdir())
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in names])

    def hf_hub_download(repo, name, *, revision):
        found.asked.append((name, revision))
        return str(tmp_path / name)

    package, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    package.model_info, package.hf_hub_download, errors.HfHubHTTPError = model_info, hf_hub_download, HttpError
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return found


def prepared(folder, **changed):
    """What ``parity prepare`` uploads."""
    content = {"model.onnx": b"fp32", "model.int8.onnx": b"int8", "calibration.cache": b"cache", "README.md": b"card"}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    entries = [{"name": n, "sha256": changed.get(n, hashlib.sha256(d).hexdigest())} for n, d in content.items()]
    (folder / "manifest.json").write_text(json.dumps({"schema": "prepared/1", "files": entries}))


def fetch(**options):
    return fetch_from_hub("org/name", **{"revision": None, "file": None, "precision": None, **options})


def test_a_prepared_repository_gives_its_int8_file_checked_against_its_manifest(hub, tmp_path):
    prepared(tmp_path)
    found = fetch()
    assert found.onnx.name == "model.int8.onnx"
    assert found.notes == (f"model.int8.onnx of org/name at {COMMIT}: as its manifest says",)


def test_all_files_come_from_one_commit(hub, tmp_path):
    prepared(tmp_path)
    fetch(revision="main")
    assert hub.asked[0] == ("org/name", "main")
    assert {revision for _, revision in hub.asked[1:]} == {COMMIT}


def test_a_calibration_cache_comes_with_the_fp32_file(hub, tmp_path):
    prepared(tmp_path)
    found = fetch(precision="fp32", cache="calibration.cache")
    assert (found.onnx.name, found.cache.name) == ("model.onnx", "calibration.cache")


def test_a_file_with_another_hash_is_refused(hub, tmp_path):
    prepared(tmp_path, **{"model.int8.onnx": "0" * 64})
    with pytest.raises(InputError, match=r"model\.int8\.onnx does not have the hash"):
        fetch()


def test_without_a_manifest_it_is_said(hub, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"x")
    (tmp_path / "net.onnx.data").write_bytes(b"y")
    found = fetch()
    assert found.onnx.name == "net.onnx"
    assert [name for name, _ in hub.asked[1:]] == ["net.onnx", "net.onnx.data"]
    assert all("in no manifest" in note for note in found.notes)


@pytest.mark.parametrize("text", ["{", "[]", '{"files": 3}', '{"files": [{"name": "a"}]}'])
def test_a_broken_manifest_is_refused(hub, tmp_path, text):
    prepared(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json"):
        fetch()


@pytest.mark.parametrize(
    ("status", "words"), [(401, "HF_TOKEN"), (403, "access"), (404, "no such repository"), (500, "500")]
)
def test_every_answer_of_the_hub_is_a_sentence_without_the_token(hub, status, words, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.fails = HttpError(status)
    with pytest.raises(InputError, match=words) as caught:
        fetch()
    assert TOKEN not in str(caught.value)
    assert caught.value.__suppress_context__


def test_an_unreachable_hub_is_a_sentence(hub):
    hub.fails = ConnectionError(f"https://user:{TOKEN}@hub unreachable")
    with pytest.raises(InputError, match=r"did not answer as expected \(ConnectionError\)") as caught:
        fetch()
    assert TOKEN not in str(caught.value)


def test_without_the_package_it_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(Unavailable, match="pip install huggingface_hub"):
        fetch()


@pytest.mark.parametrize(
    ("names", "options", "chosen"),
    [
        (["a.onnx", "b.txt"], {}, "a.onnx"),
        (["m.onnx", "m.int8.onnx"], {}, "m.int8.onnx"),
        (["m.onnx", "m.int8.onnx", "m.fp16.onnx"], {"precision": "fp16"}, "m.fp16.onnx"),
        (["m.onnx", "m.int8.onnx"], {"precision": "tf32"}, "m.onnx"),
        (["x/m.onnx", "y/m.onnx"], {"file": "y/m.onnx"}, "y/m.onnx"),
        (["../m.onnx", "m.onnx"], {}, "m.onnx"),
    ],
)
def test_which_file_is_chosen(names, options, chosen):
    assert choose_file(names, **{"file": None, "precision": None, "where": "org/name", **options}) == chosen


@pytest.mark.parametrize(
    ("names", "options", "kind", "words"),
    [
        (["a.txt"], {}, InputError, "no .onnx file"),
        (["a.onnx"], {"file": "b.onnx"}, InputError, "It has: a.onnx"),
        (["a.onnx", "b.onnx"], {}, UsageError, "--hf-file"),
        (["a.onnx"], {"precision": "int8"}, UsageError, "0 ONNX files of precision int8"),
        (["../a.onnx"], {"file": "../a.onnx"}, InputError, "no ONNX file"),
    ],
)
def test_no_file_is_chosen_by_luck(names, options, kind, words):
    with pytest.raises(kind, match=words):
        choose_file(names, **{"file": None, "precision": None, "where": "org/name", **options})


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "..\\a", "C:\\a", "\\\\host\\a", ""])
def test_names_that_leave_the_folder(name):
    assert not is_inside(name)


def test_a_cache_that_is_nowhere_is_bad_input(hub, tmp_path):
    prepared(tmp_path)
    with pytest.raises(InputError, match=r"no calibration cache 'other\.cache'"):
        fetch(precision="fp32", cache="other.cache")
