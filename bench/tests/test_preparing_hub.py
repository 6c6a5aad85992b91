"""Publishing to a hub that takes it, refuses it, or is not there; the token shows nowhere."""

import builtins
import logging
import traceback

import pytest

from bench.errors import InputError, Unavailable, UsageError
from bench.files import sha256_file
from bench.preparing import hub
from bench.preparing.hub import HubError, check_repo, publish
from bench.preparing.steps import Stored
from bench.tests.preparing_servers import Files, Hub, serving

pytest.importorskip("huggingface_hub", reason="pip install 'backend-parity[hub]'")
# huggingface_hub 2.4 hands files to httpx2 in a way that httpx2 calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
SECRET = "hf_" + "s3cretTokenOfNobody"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    logging.getLogger("huggingface_hub").propagate = True
    # uploads of large files by LFS, which the fake hub speaks; hf_xet has a protocol of its own
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"onnx" * 1000)
    (tmp_path / "README.md").write_text("# card\n")
    return tmp_path


@pytest.fixture
def files(folder):
    return [
        Stored(name=p.name, sha256=sha256_file(p), bytes=p.stat().st_size)
        for p in sorted(folder.iterdir())
        if p.is_file()
    ]


@pytest.fixture
def fake(monkeypatch):
    made = Hub(token=SECRET)
    with serving(made.handler()) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield made


def put(folder, files):
    return publish(folder, files, repo="org/name", message="Prepare", progress=False)


def test_exactly_the_files_arrive_in_one_commit(fake, folder, files):
    (folder / "private.txt").write_text("not listed")
    done = put(folder, files)
    assert fake.committed == {"model.onnx": b"onnx" * 1000, "README.md": b"# card\n"}
    assert fake.calls.count("commit") == 1
    assert done.commit == "c0ffee"
    assert done.url.endswith("/org/name")


@pytest.mark.parametrize(
    ("step", "status", "words"),
    [
        ("create", 401, "does not accept the token.*export HF_TOKEN"),
        ("create", 403, "may not write to org/name.*--hf-repo NAME/name"),
        ("create", 404, "knows no org/name.*--hf-repo ORG/NAME"),
        ("preupload", 404, "knows no org/name"),
        ("preupload", 401, "does not accept the token"),
        ("batch", 403, "may not write"),
        ("commit", 403, "may not write"),
        ("commit", 400, "HTTP 400"),
    ],
)
def test_a_refusal_says_what_to_type_and_keeps_everything(fake, folder, files, step, status, words):
    fake.fail[step] = status
    before = {p: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(HubError, match=words) as caught:
        put(folder, files)
    assert "complete and kept" in str(caught.value)
    assert "--skip-upload" in str(caught.value)
    assert {p: p.read_bytes() for p in folder.iterdir()} == before
    assert fake.committed == {}


@pytest.mark.parametrize(
    ("status", "words"), [(401, "does not accept the token"), (403, "may not write"), (404, "knows no")]
)
def test_a_refusal_of_the_upload_by_xet_is_understood_too(fake, folder, files, monkeypatch, status, words):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    fake.fail["xet"] = status
    with pytest.raises(HubError, match=words):
        put(folder, files)
    assert "xet" in fake.calls
    assert fake.committed == {}


def test_a_wrong_token_is_a_401(fake, folder, files, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_anotherTokenOfNobody")
    with pytest.raises(HubError, match="does not accept the token"):
        put(folder, files)


def test_a_hub_that_cannot_be_reached_is_said_so(folder, files, monkeypatch):
    with serving(Files({}).handler()) as gone:
        pass
    monkeypatch.setenv("HF_ENDPOINT", gone)
    with pytest.raises(HubError, match=r"cannot be reached.*nothing is made anew"):
        put(folder, files)


def test_a_hub_that_says_nothing_is_left(fake, folder, files, monkeypatch):
    monkeypatch.setattr(hub, "TIMEOUT_S", 0.2)
    fake.hang = "create"
    with pytest.raises(HubError, match=r"did not answer as a hub does \(.*timed out"):
        put(folder, files)
    fake.free.set()


@pytest.mark.parametrize("step", ["create", "preupload", "batch", "commit"])
@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_the_token_shows_nowhere_even_if_the_hub_repeats_it(fake, folder, files, step, status, capfd, caplog):
    fake.fail[step], fake.echo_token = status, True
    caplog.set_level(logging.DEBUG)
    with pytest.raises(HubError) as caught:
        put(folder, files)
    shown = "".join(traceback.format_exception(caught.value))
    out, err = capfd.readouterr()
    for text in (shown, out, err, caplog.text, str(caught.value)):
        assert SECRET not in text
    assert caught.value.__cause__ is None


def test_the_token_shows_nowhere_when_all_is_well(fake, folder, files, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    done = put(folder, files)
    out, err = capfd.readouterr()
    assert SECRET not in out + err + caplog.text + repr(done)
    assert all(SECRET.encode() not in content for content in fake.committed.values())


@pytest.mark.parametrize("value", ["a b" * 5, "line\nbreak_of_a_token", "x", "tökentökentöken"])
def test_a_token_that_cannot_be_one_is_refused_without_showing_it(fake, folder, files, monkeypatch, value):
    monkeypatch.setenv("HF_TOKEN", value)
    with pytest.raises(UsageError, match="HF_TOKEN is set, but") as caught:
        put(folder, files)
    assert value not in str(caught.value)
    assert fake.calls == []


def test_without_a_token_it_says_which_variable(folder, files, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match=r"environment variable HF_TOKEN.*export HF_TOKEN=\.\.\..*--skip-upload"):
        put(folder, files)


def test_a_file_that_changed_after_it_was_recorded_is_not_uploaded(fake, folder, files):
    (folder / "README.md").write_text("other")
    with pytest.raises(InputError, match="changed since it was prepared"):
        put(folder, files)
    assert fake.calls == []


@pytest.mark.parametrize("address", ["http://hub.example", "ftp://hub", "nonsense", "https://user:word@hub.example"])
def test_an_address_that_would_show_the_token_is_refused(folder, files, monkeypatch, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(UsageError, match="HF_ENDPOINT") as caught:
        put(folder, files)
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    "repo", ["name", "a/b/c", "../x", "org/", "/name", "org/na me", "org/a..b", "org/x.git", "org/a--b"]
)
def test_a_repository_of_another_form_is_refused(repo):
    with pytest.raises(UsageError, match="ORG/NAME"):
        check_repo(repo)


def test_without_huggingface_hub_the_extra_is_named(folder, files, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith("huggingface_hub"):
            raise ImportError(name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(Unavailable, match=r"pip install 'backend-parity\[hub\]'"):
        put(folder, files)


def test_redaction_is_what_keeps_a_repeated_token_out(fake, folder, files, monkeypatch):
    # negative control: the hub of the test above really repeats the token in what the library raises
    fake.fail["commit"], fake.echo_token = 400, True
    monkeypatch.setattr(hub, "redact", lambda text, secret: text)
    with pytest.raises(HubError) as caught:
        put(folder, files)
    assert SECRET in str(caught.value)
