"""One file over HTTP: interrupted, refused, changed, and only named when it is whole."""

import errno
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import InputError, UsageError
from bench.preparing import download
from bench.preparing.download import Expected, Missing, Policy, Unreachable, fetch, safe_name
from bench.tests.preparing_servers import Files, serving

CONTENT = bytes(range(256)) * 1024
PATH = "/a.bin"
QUICK = Policy(timeout_s=5, attempts=3, pause_s=0)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def files():
    return Files({PATH: CONTENT})


@pytest.fixture
def get(files, tmp_path):
    with serving(files.handler()) as url:

        def typed(**options):
            options = {"expected": Expected(limit_bytes=1 << 20), "policy": QUICK, **options}
            return fetch(url + PATH, tmp_path / "a.bin", **options)

        yield typed


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_arrives_and_nothing_else_stays(get, tmp_path):
    seen = []
    assert get(progress=lambda done, total: seen.append((done, total))).read_bytes() == CONTENT
    assert names(tmp_path) == ["a.bin"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_truncated_answer_is_continued_where_it_ended(get, files, tmp_path):
    files.tricks[PATH].extend(["cut 100000"])
    assert get().read_bytes() == CONTENT
    (_, first), (_, second) = files.asked
    assert first is None
    assert second == "bytes=100000-"


def test_without_range_support_the_file_is_begun_anew(get, files):
    files.ranges = False
    files.tricks[PATH].extend(["cut 100000"])
    assert get().read_bytes() == CONTENT
    assert len(files.asked) == 2


def test_a_partial_file_of_an_earlier_start_is_continued(get, files, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:5000])
    assert get().read_bytes() == CONTENT
    assert files.asked == [(PATH, "bytes=5000-")]


def test_a_partial_file_that_is_too_long_is_begun_anew(get, files, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"more")
    assert get().read_bytes() == CONTENT
    assert [asked for _, asked in files.asked] == [f"bytes={len(CONTENT) + 4}-", None]


@pytest.mark.parametrize("trick", ["other-range", "later-range"])
def test_an_answer_with_another_range_is_not_appended(get, files, tmp_path, trick):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:5000])
    files.tricks[PATH].append(trick)
    assert get().read_bytes() == CONTENT


def test_a_partial_file_of_other_content_is_found_by_its_md5(get, files, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"x" * 5000)
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    assert get(expected=Expected(limit_bytes=1 << 20, md5=md5)).read_bytes() == CONTENT
    assert len(files.asked) == 2


def test_the_etag_of_s3_is_the_md5(get, files, tmp_path):
    files.headers = {"Server": "AmazonS3", "ETag": '"' + "0" * 32 + '"'}
    with pytest.raises(Unreachable, match="MD5 is"):
        get()
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_failure_that_may_pass_is_asked_again(get, files, status):
    files.tricks[PATH].extend([status, status])
    assert get().read_bytes() == CONTENT
    assert len(files.asked) == 3


def test_a_server_that_stays_down_ends_the_attempts_and_keeps_the_part(get, files, tmp_path):
    files.tricks[PATH].extend(["cut 1000", 500, 500])
    with pytest.raises(Unreachable, match=r"HTTP 500 .*\(3 attempts\)\. 1000 bytes are kept"):
        get()
    assert names(tmp_path) == ["a.bin.part"]
    assert get().read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_refusal_is_not_asked_again(get, files, status, tmp_path):
    files.tricks[PATH].append(status)
    with pytest.raises(Missing, match=f"HTTP {status}"):
        get()
    assert len(files.asked) == 1
    assert names(tmp_path) == []


def test_content_that_is_not_the_file_does_not_get_its_name(get, files, tmp_path):
    files.tricks[PATH].append("html")

    def check(path):
        if path.read_bytes() != CONTENT:
            raise InputError("not it")

    with pytest.raises(Missing, match="not it"):
        get(check=check)
    assert names(tmp_path) == []


def test_a_file_of_unknown_length_is_refused(get, files):
    files.tricks[PATH].append("no-length")
    with pytest.raises(Missing, match="does not say how long"):
        get()


def test_a_file_beyond_the_limit_or_of_another_size_is_refused(get, tmp_path):
    with pytest.raises(Missing, match="more than 1000 are not taken"):
        get(expected=Expected(limit_bytes=1000))
    with pytest.raises(Missing, match="not the same file"):
        get(expected=Expected(limit_bytes=1 << 20, size=5))
    assert names(tmp_path) == []


def test_a_server_that_says_nothing_is_left(get, files):
    files.tricks[PATH].extend(["hang", "hang"])
    with pytest.raises(Unreachable, match=r"timed out \(2 attempts\)"):
        get(policy=Policy(timeout_s=0.2, attempts=2, pause_s=0))
    files.free.set()


def test_nobody_at_the_address_is_said_so(tmp_path):
    with serving(Files({}).handler()) as url:
        pass
    with pytest.raises(Unreachable, match="refused"):
        fetch(url + PATH, tmp_path / "a", expected=Expected(limit_bytes=1), policy=QUICK)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "a.bin"])
def test_only_http_addresses_are_fetched(url, tmp_path):
    with pytest.raises(UsageError, match="only http"):
        fetch(url, tmp_path / "a", expected=Expected(limit_bytes=1), policy=QUICK)


def test_a_full_disk_is_no_network_failure(get, files, monkeypatch, tmp_path):
    class Full:
        def __init__(self, stream):
            self._stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self._stream.close()

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    real = type(tmp_path).open
    monkeypatch.setattr(
        type(tmp_path),
        "open",
        lambda self, mode="r", *a, **k: Full(real(self, mode)) if mode == "wb" else real(self, mode),
    )
    with pytest.raises(InputError, match=r"No space left on device.*goes on where it stopped"):
        get()
    assert len(files.asked) == 1


@given(st.text(max_size=30))
def test_a_name_never_leaves_its_folder(name):
    try:
        kept = safe_name(name, where="list")
    except InputError:
        return
    assert kept == name
    assert not set(name) & set("/\\:\0\n ")
    assert name not in (".", "..")


@pytest.mark.parametrize(
    "name", ["../x.jpg", "/x.jpg", "a/b.jpg", "..", ".hidden.jpg", "C:x.jpg", "a\\b", "x.part", "", "a\n"]
)
def test_names_that_leave_the_folder_or_hide_in_it_are_refused(name):
    with pytest.raises(InputError, match="plain file name"):
        safe_name(name, where="list")


def test_pauses_double(monkeypatch, get, files):
    slept = []
    monkeypatch.setattr(download.time, "sleep", slept.append)
    files.tricks[PATH].extend([500, 500])
    get(policy=Policy(attempts=3, pause_s=1.5))
    assert slept == [1.5, 3.0]
