"""Local servers that answer like COCO's host and like a model hub, and misbehave as they are told."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections import defaultdict, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, content=b"", headers=(), *, send=None):
        self.send_response_only(status)
        headers = dict(headers)
        if "Transfer-Encoding" not in headers and headers.get("Content-Length") != "":
            headers.setdefault("Content-Length", str(len(content)))
        for name, value in headers.items():
            if value != "":
                self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content if send is None else content[:send])


@contextlib.contextmanager
def serving(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Files:
    """What a file server holds, how it behaves, and what it was asked.

    ``tricks[path]`` is a queue of behaviours, one per request: an HTTP status, ``cut N`` (whole length stated, N bytes
    sent), ``other-range``, ``later-range``, ``no-length``, ``html``, ``hang``; without one the file is sent,
    by range when ``ranges`` is true.
    """

    def __init__(self, files, *, ranges=True):
        self.files = files
        self.ranges = ranges
        self.tricks = defaultdict(deque)
        self.headers = {}
        self.asked = []
        self.free = threading.Event()

    def handler(self):
        held = self

        class Handler(_Quiet):
            def do_GET(self):
                asked = self.headers.get("Range")
                held.asked.append((self.path, asked))
                trick = held.tricks[self.path].popleft() if held.tricks[self.path] else None
                content = held.files.get(self.path)
                if isinstance(trick, int):
                    return self.reply(trick, b"no")
                if trick == "hang":
                    held.free.wait(5)
                    self.close_connection = True
                    return None
                if trick == "html":
                    return self.reply(200, b"<html>log in</html>")
                if content is None:
                    return self.reply(404, b"not here")
                if trick == "no-length":
                    self.close_connection = True
                    return self.reply(200, content, {"Content-Length": "", "Connection": "close"})
                start, status, headers = 0, 200, dict(held.headers)
                if asked and held.ranges:
                    start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
                    if start >= len(content):
                        return self.reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                    if trick == "other-range":
                        start = 0
                    if trick == "later-range":
                        start += 100
                    status = 206
                    headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                rest = content[start:]
                if isinstance(trick, str) and trick.startswith("cut "):
                    self.close_connection = True
                    return self.reply(status, rest, headers, send=int(trick.split()[1]))
                return self.reply(status, rest, headers)

        return Handler


class Hub:
    """Speaks what huggingface_hub asks to make a repository and commit to it; ``fail[step]`` is a status.

    Steps: ``create``, ``validate``, ``preupload``, ``batch`` (LFS), ``put``, ``commit``, ``xet``. Files that end in
    ``lfs`` go through LFS.
    """

    def __init__(self, *, token, lfs=(".onnx",)):
        self.token = token
        self.lfs = lfs
        self.fail = {}
        self.echo_token = False
        self.hang = None
        self.free = threading.Event()
        self.calls = []
        self.blobs = {}
        self.committed = {}

    def handler(self):
        hub = self

        class Handler(_Quiet):
            def do_POST(self):
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    body = self._chunks()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._answer(body)

            def do_PUT(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.calls.append("put")
                if "put" in hub.fail:
                    return self.reply(hub.fail["put"], b"no")
                hub.blobs[self.path.rsplit("/", 1)[1]] = body
                return self.reply(200)

            def do_GET(self):
                hub.calls.append("xet" if "xet-write-token" in self.path else f"get {self.path}")
                self._json(hub.fail.get("xet", 404), {"error": "not here"})

            def _chunks(self):
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def _answer(self, body):
                step = next(
                    name
                    for name, part in (
                        ("create", "/api/repos/create"),
                        ("validate", "/api/validate-yaml"),
                        ("preupload", "/preupload/"),
                        ("batch", "/info/lfs/objects/batch"),
                        ("commit", "/commit/"),
                        ("other", ""),
                    )
                    if part in self.path
                )
                hub.calls.append(step)
                if step == hub.hang:
                    hub.free.wait(5)
                    self.close_connection = True
                    return None
                given = self.headers.get("Authorization", "")
                if given != f"Bearer {hub.token}" and step not in hub.fail:
                    hub.fail[step] = 401
                if step in hub.fail:
                    said = f"refused {given}" if hub.echo_token else "refused"
                    return self._json(hub.fail[step], {"error": said}, {"X-Error-Message": said})
                return getattr(self, f"_{step}")(body)

            def _json(self, status, document, headers=()):
                self.reply(status, json.dumps(document).encode(), {"Content-Type": "application/json", **dict(headers)})

            def _create(self, body):
                asked = json.loads(body)
                repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                self._json(200, {"url": f"{base(self)}/{repo}", "name": repo, "id": "1"})

            def _validate(self, body):
                hub.card = json.loads(body)["content"]
                self._json(200, {"errors": [], "warnings": []})

            def _preupload(self, body):
                files = json.loads(body)["files"]
                modes = [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["path"].endswith(hub.lfs) else "regular",
                        "shouldIgnore": False,
                    }
                    for f in files
                ]
                self._json(200, {"files": modes})

            def _batch(self, body):
                objects = [
                    {
                        "oid": o["oid"],
                        "size": o["size"],
                        "actions": {"upload": {"href": f"{base(self)}/put/{o['oid']}"}},
                    }
                    for o in json.loads(body)["objects"]
                ]
                self._json(200, {"transfer": "basic", "objects": objects})

            def _commit(self, body):
                for line in body.decode().splitlines():
                    item = json.loads(line)
                    value = item["value"]
                    if item["key"] == "file":
                        hub.committed[value["path"]] = base64.b64decode(value["content"])
                    elif item["key"] == "lfsFile":
                        hub.committed[value["path"]] = hub.blobs[value["oid"]]
                        assert hashlib.sha256(hub.blobs[value["oid"]]).hexdigest() == value["oid"]
                self._json(
                    200,
                    {
                        "success": True,
                        "commitOid": "c0ffee",
                        "commitUrl": f"{base(self)}/o/n/commit/c0ffee",
                        "hookOutput": "",
                    },
                )

        return Handler


def base(handler):
    return f"http://{handler.headers['Host']}"
