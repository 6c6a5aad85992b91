"""``python -m bench`` is the command ``parity``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; our own failures become one clear line and exit code 2, without a traceback."""
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


if __name__ == "__main__":
    main()
