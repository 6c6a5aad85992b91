"""TensorRT's log. Failures are logged and then returned as None or False, so the lines are the only explanation."""

from __future__ import annotations

from typing import Any

from bench.trt.names import name_of

KEPT = 200
"""Lines kept; a builder that warns about every layer must not grow without limit."""


def make_logger(trt: Any) -> Any:
    """An ``ILogger`` that keeps errors and warnings: ``errors()``, ``warnings()`` and ``explain()``.

    TensorRT calls it from threads of its own and does not survive an exception in it.
    """

    class CapturingLogger(trt.ILogger):  # type: ignore[misc]
        """Keeps what TensorRT says about failures."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # the bindings want the base called by name
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, msg: Any) -> None:
            """Called by TensorRT."""
            word = name_of(severity)
            if word in ("INTERNAL_ERROR", "ERROR", "WARNING") and len(self.lines) < KEPT:
                self.lines.append((word, str(msg)))

        def errors(self) -> list[str]:
            """Error lines, oldest first."""
            return [text for word, text in self.lines if word != "WARNING"]

        def warnings(self) -> list[str]:
            """Warning lines, oldest first."""
            return [text for word, text in self.lines if word == "WARNING"]

        def explain(self) -> str:
            """What to append to an error message: the errors, else the last warnings, else that it said nothing."""
            if self.errors():
                return "TensorRT says: " + " | ".join(self.errors()[-5:])
            if self.warnings():
                return "TensorRT logged no error; its last warnings: " + " | ".join(self.warnings()[-3:])
            return "TensorRT logged nothing"

    return CapturingLogger()
