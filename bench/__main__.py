"""``python -m bench`` is the command ``parity``."""

from __future__ import annotations

import codecs
import io
import sys


def main() -> None:
    """Run the command line; our own failures become one clear line and exit code 2, without a traceback."""
    _print_any_name()
    from bench.cli import app
    from bench.errors import BenchError

    try:
        app(prog_name="parity")
    except BenchError as error:
        sys.stderr.write(f"parity: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("parity: interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


def _print_any_name() -> None:
    """Let a terminal or pipe with a small character set show what it lacks as JSON escapes, instead of failing.

    A redirected output on Windows takes the characters of one code page; an image may be called anything.
    """
    codecs.register_error("json_escapes", _escapes)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="json_escapes")


def _escapes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)), error.end


if __name__ == "__main__":
    main()
