"""Options that several verbs share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from bench.options import HELP

Text = str | None
Fixtures = Annotated[Text, typer.Option("--fixtures", "--dataset", "--dataset-root", help=HELP["fixtures"])]
Weights = Annotated[list[str] | None, typer.Option("--weights", "--checkpoint", help=HELP["weights"])]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Adapter = Annotated[list[str] | None, typer.Option("--adapter", help=HELP["adapter"])]
MaxImages = Annotated[Text, typer.Option("--max-images", metavar="N", help=HELP["max_images"])]
Threads = Annotated[Text, typer.Option("--threads", metavar="N", help=HELP["threads"])]
Calibration = Annotated[Text, typer.Option("--calibration", help=HELP["calibration"])]
Exclude = Annotated[list[str] | None, typer.Option("--exclude", metavar="REGEX", help=HELP["exclude"])]
Calibrator = Annotated[Text, typer.Option("--calibrator", metavar="NAME", help=HELP["calibrator"])]
Activations = Annotated[Text, typer.Option("--activations", metavar="TYPE", help=HELP["activations"])]
Tune = Annotated[Text, typer.Option("--tune", metavar="yes|no", help=HELP["tune"])]
Markdown = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Also write the summary of a pull request.")
]
Junit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Also write JUnit XML: a test case per cell and check.")
]
Strict = Annotated[bool, typer.Option("--strict-undecided", help="Undecided is a failure in the JUnit file.")]
Margin = Annotated[list[str] | None, typer.Option("--margin", metavar="P=X", help=HELP["margin"])]
Bootstrap = Annotated[Text, typer.Option("--bootstrap", metavar="N", help=HELP["bootstrap"])]
Band = Annotated[Text, typer.Option("--band", metavar="PERCENT", help=HELP["band"])]
Protocol = Annotated[Text, typer.Option("--protocol", metavar="NAME|FILE", help=HELP["protocol"])]
AllowMismatch = Annotated[
    bool,
    typer.Option("--allow-protocol-mismatch", "--allow-protocol-mismatches", help=HELP["allow_protocol_mismatch"]),
]
Seed = Annotated[Text, typer.Option("--seed", metavar="N", help=HELP["seed"])]


def with_options_of(
    verb: Callable[..., None], *, leave_out: Sequence[str]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb all options of another, but for some; it receives them as the mapping ``values``."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = {**get_type_hints(verb, include_extras=True), **get_type_hints(function, include_extras=True)}
        taken = [p for n, p in inspect.signature(verb).parameters.items() if n not in leave_out]
        own = [p for n, p in inspect.signature(function).parameters.items() if n != "values"]
        names = [p.name for p in taken]

        @functools.wraps(function)
        def called(**given: Any) -> None:
            function({n: given.pop(n) for n in names}, **given)

        parameters = [p.replace(annotation=hints[p.name]) for p in (*own, *taken)]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        return called

    return decorate
