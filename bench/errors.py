"""The exception tree. Each message says what, where, and what to type.

BenchError
├── UsageError      a wrong option, name or configuration value                   exit 2
├── InputError      a file given by the user that cannot be used as it is         exit 2
│   └── OtherModelError   a whole file, of another model than it is given for
├── ContractError   an adapter, backend or feed that breaks its protocol
├── ArtifactError   an artefact that cannot be made, verified or loaded
├── Unavailable     a backend that this host cannot run, with the remedy          cell: skipped
├── Unsupported     a combination that cannot exist, with the reason              cell: unsupported
└── LaneError       a lane that crashed, hung or ran out of memory                cell: error
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class BenchError(Exception):
    """Root of every failure this project raises on purpose."""


class UsageError(BenchError):
    """An option, a name or a configuration value that does not exist or does not fit."""


class InputError(BenchError):
    """A file or folder given by the user that cannot be used as it is."""


class OtherModelError(InputError):
    """A file that is whole but holds another model than the one it is given for; the message names what differs."""


class ContractError(BenchError):
    """An adapter, backend or feed that breaks its protocol (names, shapes, dtypes)."""


class ArtifactError(BenchError):
    """An artefact that cannot be exported, converted, verified or loaded."""


class Unavailable(BenchError):  # noqa: N818 - the word of the plan, a state rather than a mistake
    """A backend that cannot run on this host; the message is the reason and the remedy."""


class Unsupported(BenchError):  # noqa: N818
    """A combination that cannot exist, whatever is installed; the message is the reason."""


class LaneError(BenchError):
    """A lane that crashed, hung or ran out of memory; the message names signal or limit."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known name, else the list of known names."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" Known: {', '.join(names)}." if names else ""
