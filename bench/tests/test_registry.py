import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from bench import registry
from bench.errors import ContractError, UsageError
from bench.registry import adapter_reference, backend_reference, fitted_reference, load_adapter, load_backend

REPOSITORY = Path(__file__).resolve().parents[2]
GOOD = """
from adapters.examples.fastestdet import adapter as base
adapter = base
"""


def test_every_backend_file_has_an_entry_point_and_the_reverse():
    files = {p.stem for p in (REPOSITORY / "bench" / "backends").glob("*.py")}
    values = [e.value for e in metadata.entry_points(group=registry.BACKENDS)]
    ours = {v.partition(":")[0].rpartition(".")[2] for v in values if v.startswith("bench.backends.")}
    assert ours == files & ours
    assert {"pytorch", "onnxrt", "openvino", "trt", "recorded"} == ours


@pytest.mark.parametrize(
    ("given", "name"), [("onnxruntime", "onnxrt"), ("pytorch", "torch"), ("tensorrt", "trt"), ("torch", "torch")]
)
def test_a_backend_is_found_by_name_and_alias(given, name):
    assert load_backend(given).name == name
    assert backend_reference(given).target == name


def test_an_unknown_backend_suggests_the_nearest():
    with pytest.raises(UsageError, match=r"unknown backend 'onnxrtt'\. Did you mean 'onnxrt'"):
        load_backend("onnxrtt")


def test_an_unknown_model_suggests_the_nearest_and_says_how_to_bring_one():
    with pytest.raises(UsageError, match=r"Did you mean 'yolov10n'.*--adapter PATH\.py"):
        load_adapter("yolo10n")


def test_a_model_outside_the_package_is_loaded_by_path(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    reference = adapter_reference(str(path))
    assert reference.name == "fastestdet"
    assert reference.target == str(path)


def test_a_model_folder_with_relative_imports_is_loaded_by_its_init(tmp_path):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import adapter\n")
    (package / "inner.py").write_text(GOOD)
    assert load_adapter(str(package / "__init__.py")).spec.name == "fastestdet"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise RuntimeError('boom')", r"raises on import: RuntimeError: boom \(mine\.py:1\)"),
        ("import not_a_module_of_anyone", "raises on import: ModuleNotFoundError"),
        ("def adapter(:", "raises on import: SyntaxError"),
        ("x = 1", "defines no `adapter`"),
        ("adapter = object()", "not an adapter: it lacks .*postprocess"),
    ],
)
def test_a_broken_adapter_file_is_named_with_the_reason(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ContractError, match=message):
        load_adapter(str(path))


def test_a_missing_adapter_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        load_adapter(str(tmp_path / "none.py"))


def test_a_plug_in_of_an_installed_package_is_found_by_its_entry_point(tmp_path):
    (tmp_path / "thirdparty.py").write_text(GOOD)
    info = tmp_path / "thirdparty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.ADAPTERS}]\ntheirs = thirdparty:adapter\n")
    code = (
        "from bench.registry import adapter_names, load_adapter;"
        "print('theirs' in adapter_names(), load_adapter('theirs').spec.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": f"{tmp_path}", "PATH": ""},
        check=True,
    )
    assert done.stdout.split() == ["True", "fastestdet"]


def test_importing_the_core_and_every_adapter_loads_no_runtime():
    code = (
        "import sys, pkgutil, importlib, bench\n"
        "for m in pkgutil.walk_packages(bench.__path__, 'bench.'):\n"
        "    if '.tests' not in m.name and m.name != 'bench.__main__': importlib.import_module(m.name)\n"
        "from bench.registry import adapter_names, load_adapter\n"
        "[load_adapter(n) for n in adapter_names()]\n"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'tensorrt', 'transformers', 'lightning', 'onnx', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


FITTING = """
from dataclasses import replace
from adapters.examples.fastestdet import adapter as base

class Mine:
    def __init__(self, spec): self.spec = spec
    def __getattr__(self, name): return getattr(base, name)
    def fitted(self, weights): return Mine(replace(self.spec, name=NAME or self.spec.name, origin=str(weights)))

NAME = None
adapter = Mine(base.spec)
"""


@pytest.fixture
def fitting(tmp_path):
    """An adapter that tells which weights it was fitted to, in a folder whose name could break a split."""
    folder = tmp_path / "a::b"
    folder.mkdir()
    path = folder / "mine.py"
    path.write_text(FITTING)
    return path


@pytest.mark.parametrize(
    "weights", ["/w/best.pt", "C:/w/best.pt", "/w/a::b/best.pt", "/w/x.py::y.pt", "/w/new\nline.pt"]
)
def test_a_target_with_weights_is_the_adapter_fitted_to_them(fitting, weights):
    assert load_adapter(f"{fitting}::{weights}").spec.origin == weights
    assert load_adapter(str(fitting)).spec.origin != weights


@pytest.mark.parametrize(
    ("target", "plain", "weights"),
    [
        ("yolov10n::/w/best.pt", "yolov10n", "/w/best.pt"),
        ("yolov10n::D:\\w\\best.pt", "yolov10n", "D:\\w\\best.pt"),
        ("package.module:attribute::/w/best.pt", "package.module:attribute", "/w/best.pt"),
        ("C:\\m\\mine.py::D:\\w\\best.pt", "C:\\m\\mine.py", "D:\\w\\best.pt"),
        ("/a::b/mine.py::/w/best.pt", "/a::b/mine.py", "/w/best.pt"),
    ],
)
def test_names_drives_and_colons_do_not_break_the_split(target, plain, weights):
    found = registry._FITTED.fullmatch(target)
    assert found is not None
    assert (found["plain"], found["weights"]) == (plain, weights)


@pytest.mark.parametrize(
    "target", ["yolov10n", "package.module:attribute", "/a::b/mine.py", "C:\\m\\mine.py", "yolov10n::"]
)
def test_a_target_without_weights_is_not_split(target):
    assert registry._FITTED.fullmatch(target) is None


def test_a_reference_is_fitted_only_where_the_adapter_can_be(fitting, tmp_path):
    weights = tmp_path / "best.pt"
    reference = fitted_reference(adapter_reference(str(fitting)), weights)
    assert reference.name == "fastestdet"
    assert reference.target == f"{fitting}::{weights}"
    plain = adapter_reference("fastestdet")
    assert fitted_reference(plain, weights) == plain


def test_weights_that_ship_with_a_model_need_no_fitting():
    plain = adapter_reference("yolov10n")
    assert fitted_reference(plain, load_adapter("yolov10n").spec.default_weights) == plain


def test_an_adapter_that_cannot_be_fitted_says_so_when_it_is_asked_to():
    with pytest.raises(ContractError, match="fastestdet cannot be fitted to weights: it lacks fitted"):
        load_adapter("fastestdet::/w/best.pt")


def test_fitting_must_not_change_the_name_of_a_cell(fitting):
    fitting.write_text(FITTING.replace("NAME = None", "NAME = 'other'"))
    with pytest.raises(ContractError, match="fastestdet calls itself other"):
        load_adapter(f"{fitting}::/w/best.pt")
