import multiprocessing
import stat

import pytest

from bench.artifacts import Made, Store, key_of, source_sha256
from bench.errors import ArtifactError, InputError
from bench.types import TensorSpec

SPEC = (TensorSpec(name="x", shape=("batch", 3), dtype="float32"),)


def obtain(store, *, identity=None, content=b"graph", calls=None):
    def make(path):
        if calls is not None:
            calls.append(path)
        path.write_bytes(content)
        return Made(inputs=SPEC, outputs=SPEC, recipe={"tool": "test"})

    return store.obtain(
        kind="onnx", precision="fp32", file_name="m.onnx", made_from=None, identity=identity or {"a": 1}, make=make
    )


def test_an_artefact_is_made_once_and_found_again_with_its_record(tmp_path):
    calls = []
    first = obtain(Store(tmp_path), calls=calls)
    again = obtain(Store(tmp_path), calls=calls)
    assert len(calls) == 1
    assert again == first
    assert again.inputs == SPEC
    assert again.path.read_bytes() == b"graph"


def test_another_identity_is_another_artefact(tmp_path):
    store = Store(tmp_path)
    assert obtain(store).path != obtain(store, identity={"a": 2}).path


def test_a_damaged_file_is_made_again(tmp_path):
    calls = []
    path = obtain(Store(tmp_path), calls=calls).path
    path.write_bytes(b"grap")
    assert obtain(Store(tmp_path), calls=calls).path.read_bytes() == b"graph"
    assert len(calls) == 2


def test_a_maker_that_fails_leaves_nothing_behind(tmp_path):
    def make(path):
        path.write_bytes(b"half")
        raise ArtifactError("no")

    store = Store(tmp_path)
    with pytest.raises(ArtifactError):
        store.obtain(kind="onnx", precision="fp32", file_name="m.onnx", made_from=None, identity={}, make=make)
    assert not [p for p in store.root.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_a_maker_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(ArtifactError, match=r"wrote no m\.onnx"):
        Store(tmp_path).obtain(
            kind="onnx",
            precision="fp32",
            file_name="m.onnx",
            made_from=None,
            identity={},
            make=lambda path: Made(SPEC, SPEC, {}),
        )


def test_an_unwritable_store_names_the_remedy(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    with pytest.raises(InputError, match="PARITY_CACHE"):
        obtain(Store(blocker))


def _slow(root, queue):
    calls = []
    obtain(Store(root), calls=calls)
    queue.put(len(calls))


def test_two_processes_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    both = [context.Process(target=_slow, args=(tmp_path, queue)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(20)
    assert sorted(queue.get(timeout=5) for _ in both) == [0, 1]


def test_the_key_does_not_depend_on_the_order_of_the_identity():
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": "1"})


def test_a_changed_adapter_source_changes_its_hash(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    before = source_sha256(tmp_path)
    (tmp_path / "a.py").write_text("x = 2")
    assert source_sha256(tmp_path) != before


def test_stored_files_are_readable_by_others(tmp_path):
    record = obtain(Store(tmp_path)).path.parent / "artifact.json"
    assert record.stat().st_mode & stat.S_IROTH
