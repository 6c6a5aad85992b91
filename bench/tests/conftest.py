"""The command line as a test types it."""

import sys

import pytest

from bench.__main__ import main


@pytest.fixture(autouse=True)
def first_of_its_kind(monkeypatch):
    """A pytest that a test starts is no worker of the one that runs the test."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def parity(monkeypatch, capfd, tmp_path):
    """Type a command in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def typed(*words):
        monkeypatch.setattr(sys, "argv", ["parity", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return ended.value.code or 0, out, err

    return typed
