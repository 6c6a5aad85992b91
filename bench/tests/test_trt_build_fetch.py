"""``build_engine.py --hf-repo`` with the real huggingface_hub against a local server: every answer is a sentence."""

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import onnx
import pytest

pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")

from bench.paths import REPOSITORY
from bench.tests.stub_driver import make_driver
from bench.tests.tiny_onnx import tiny_model
from bench.tests.trt_samples import FAKE, quantised
from bench.trt.standalone import OUTPUT as SCRIPT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_averysecrettoken"


@contextlib.contextmanager
def hub(files, *, status=None):
    """Answer as a model hub does; with ``status`` every question is refused, and the refusal repeats the token."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.do_GET(body=False)

        def do_GET(self, *, body=True):
            given = self.headers.get("Authorization", "")
            asked.append((self.path, given))
            if status is not None:
                return self.reply(status, f"refused {given}".encode(), {"X-Error-Message": f"refused {given}"}, body)
            if self.path.startswith("/api/models/org/name"):
                document = {"id": "org/name", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                return self.reply(200, json.dumps(document).encode(), {"Content-Type": "application/json"}, body)
            name = self.path.rpartition(f"/resolve/{COMMIT}/")[2]
            content = files[name]
            etag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            return self.reply(200, content, etag, body)

        def reply(self, code, content, headers, body):
            self.send_response_only(code)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def place(tmp_path):
    (tmp_path / "driver").mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "tensorrt.py").write_text(FAKE)
    return tmp_path, {
        **make_driver(tmp_path / "driver"),
        "PYTHONPATH": f"{tmp_path / 'site'}:{REPOSITORY}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }


def run(place, endpoint, *words):
    folder, environment = place
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--hf-repo", "org/name", "--out", "x.engine", *words],
        cwd=folder, env={**environment, "HF_ENDPOINT": endpoint}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def prepared():
    files = {
        "model.onnx": tiny_model().SerializeToString(),
        "model.int8.onnx": quantised(tiny_model()).SerializeToString(),
        "README.md": b"card",
    }
    entries = [{"name": name, "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()]
    return {**files, "manifest.json": json.dumps({"schema": "prepared/1", "files": entries}).encode()}


def test_a_prepared_repository_becomes_an_int8_engine(place):
    with hub(prepared()) as (endpoint, asked):
        done = run(place, endpoint)
    assert done.returncode == 0, done.stderr
    assert "requested int8, observed int8" in done.stdout
    assert f"note: model.int8.onnx of org/name at {COMMIT}: as its manifest says" in done.stdout
    assert any(given == f"Bearer {TOKEN}" for _, given in asked), "the token of the environment is used"
    everything = done.stdout + done.stderr + (place[0] / "x.engine.json").read_text()
    assert TOKEN not in everything


def test_a_changed_file_is_refused(place):
    files = prepared()
    files["model.int8.onnx"] = quantised(tiny_model(head_scale=2.0)).SerializeToString()
    with hub(files) as (endpoint, _):
        done = run(place, endpoint)
    assert done.returncode == 2
    assert "model.int8.onnx does not have the hash in manifest.json" in done.stderr
    assert not (place[0] / "x.engine").exists()


@pytest.mark.parametrize(
    ("status", "words"), [(401, "HF_TOKEN"), (403, "access is refused"), (404, "no such repository")]
)
def test_a_refusal_is_a_sentence_without_the_token(place, status, words):
    with hub({}, status=status) as (endpoint, _):
        done = run(place, endpoint)
    assert done.returncode == 2
    assert words in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreachable_hub_is_a_sentence(place):
    done = run(place, "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "the hub did not answer as expected" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupted_build_leaves_nothing(place):
    folder, environment = place
    onnx.save(tiny_model(), str(folder / "m.onnx"))
    slow = (
        "import time\nworld.behaviour['Builder'] = lambda self, logger: (print('begun', flush=True), time.sleep(60))\n"
    )
    (folder / "site" / "tensorrt.py").write_text(FAKE + slow + f"open({str(folder / 'begun')!r}, 'w').close()\n")
    words = [sys.executable, str(SCRIPT), "--onnx", "m.onnx", "--out", "x.engine"]
    with subprocess.Popen(
        words,
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        for _ in range(400):
            if (folder / "begun").exists():
                break
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=30)
    assert running.returncode == 130
    assert told == "build_engine: interrupted; nothing was written\n"
    assert sorted(p.name for p in folder.iterdir()) == ["begun", "driver", "m.onnx", "site"]


def test_a_full_disk_leaves_nothing(place):
    """A limit on the size of files stands in for the disk: the engine does not fit, neither here nor in the child."""
    folder, environment = place
    onnx.save(tiny_model(), str(folder / "m.onnx"))
    (folder / "x.engine").write_bytes(b"old")
    command = f"ulimit -f 4; exec {sys.executable} {SCRIPT} --onnx m.onnx --out x.engine"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "cannot be written (File too large)" in done.stderr
    assert (folder / "x.engine").read_bytes() == b"old"
    assert sorted(p.name for p in folder.iterdir()) == ["driver", "m.onnx", "site", "x.engine"]
