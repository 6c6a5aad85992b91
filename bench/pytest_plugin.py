"""pytest hooks, each a few lines; the work is in ``bench.pytest_session``."""

from __future__ import annotations

from typing import Any

import pytest

_TEXT_OPTIONS = (
    "backends",
    "devices",
    "precisions",
    "fixtures",
    "weights",
    "calibration",
    "max-images",
    "batch",
    "threads",
    "reference",
    "adapter",
    "require-backends",
    "min-ap",
    "max-latency-ms",
    "margin",
    "time-budget",
    "rounds",
    "max-rounds",
    "openings",
    "bootstrap",
    "cross-check",
    "band",
    "baseline",
    "seed",
    "recording",
    "waivers",
    "protocol",
    "lane-timeout",
    "lane-memory",
    "out",
)
# pytest has a --fixtures of its own (it lists pytest fixtures), so ours is spelled by its alias.
_SPELLED = {"fixtures": "dataset"}
_ALIASES = {"fixtures": ("--dataset-root",), "weights": ("--checkpoint",), "out": ("--output",)}
_SESSION = pytest.StashKey[Any]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of ``parity run`` under the same names."""
    from bench.options import HELP

    group = parser.getgroup("parity", "backend parity")
    for name in ("models", *_TEXT_OPTIONS):
        group.addoption(
            f"--{_SPELLED.get(name, name)}",
            *_ALIASES.get(name, ()),
            dest=f"parity_{name.replace('-', '_')}",
            default=None,
            help=HELP[name.replace("-", "_")].replace("%", "%%"),
        )
    group.addoption(
        "--allow-protocol-mismatch",
        dest="parity_allow_protocol_mismatch",
        action="store_const",
        const=True,
        default=None,
        help=HELP["allow_protocol_mismatch"],
    )
    group.addoption("--strict-undecided", action="store_true", help="An undecided cell fails its test.")
    group.addoption(
        "--parity-config",
        dest="parity_config",
        default=None,
        metavar="FILE.toml",
        help="Option values; the command line wins.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Read the options early: a wrong name is a usage error, not a failed test."""
    from bench.pytest_session import ParitySession

    config.addinivalue_line("markers", "parity_check(name): a test of the suites that reads one cell's result")
    config.stash[_SESSION] = ParitySession.from_config(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests with the fixture ``cell`` one id per planned cell."""
    if "cell" in metafunc.fixturenames:
        cells = metafunc.config.stash[_SESSION].cells()
        metafunc.parametrize("cell", cells, ids=[c.id for c in cells])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Remember which cells the selected tests need."""
    session.config.stash[_SESSION].select(session.items)


@pytest.fixture
def cell_result(cell: Any, request: pytest.FixtureRequest) -> Any:
    """The result of this cell; the first test that asks starts the one run of this session."""
    return request.config.stash[_SESSION].result_of(cell)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Mark an undecided test, so that it has its own outcome."""
    outcome = yield
    item.config.stash[_SESSION].mark_report(item, outcome.get_result())


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """Show undecided as undecided: never green."""
    if getattr(report, "parity_undecided", None) and report.when == "call":
        return "undecided", "U", ("UNDECIDED", {"yellow": True})
    return None


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table of cells, the undecided ones and the path of the page."""
    config.stash[_SESSION].summarise(terminalreporter)
