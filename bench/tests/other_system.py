"""Make this process look like one on Windows to the code of this project, and to nothing else.

Run as ``python other_system.py VERB ...``: what the standard library does not have there is hidden from modules of
``bench``, ``adapters``, ``fixtures`` and ``schemas``; third-party packages, which have a build per system, see Linux.
Standard output speaks code page 1252, as a redirected one does there, and reading text without naming its encoding is
an error.
"""

import builtins
import os
import pathlib
import signal
import sys
import types
import warnings

OURS = {"bench", "adapters", "fixtures", "schemas"}
MODULES = {"resource", "fcntl", "termios", "pwd", "grp", "pty", "tty", "syslog", "crypt", "posix"}
NAMES = {
    "os": {"chown", "fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid",
           "getpriority", "getuid", "killpg", "mkfifo", "nice", "pidfd_open", "posix_fadvise", "posix_fallocate",
           "register_at_fork", "sched_getaffinity", "sched_setaffinity", "sendfile", "setpriority", "setsid", "statvfs",
           "sysconf", "uname", "wait4", "WNOHANG"},
    "signal": {"SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGSTOP", "SIGUSR1", "SIGUSR2", "alarm",
               "pthread_kill", "setitimer"},
}  # fmt: skip


def hide() -> None:
    """Replace what an import statement of our modules sees, and what the kernel's files tell them."""
    really = builtins.__import__
    partial = {}
    for module in (os, signal):
        partial[module.__name__] = types.ModuleType(module.__name__)
        known = {k: v for k, v in vars(module).items() if k not in NAMES[module.__name__]}
        vars(partial[module.__name__]).update(known)

    def visible(name, names_there=None, local_names=None, fromlist=(), level=0):
        if level == 0 and _ours(names_there):
            if name in MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in partial:
                return partial[name]
        return really(name, names_there, local_names, fromlist, level)

    builtins.__import__ = visible
    read = pathlib.Path.read_text

    def read_text(path, *arguments, **options):
        if _ours(sys._getframe(1).f_globals) and not arguments and "encoding" not in options:
            raise EncodingWarning(f"{path} is read without saying in which encoding")
        if path.parts[:2] == ("/", "proc") and _ours(sys._getframe(1).f_globals):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return read(path, *arguments, **options)

    pathlib.Path.read_text = read_text


def _ours(names) -> bool:
    return ((names or {}).get("__name__") or "").partition(".")[0] in OURS


if __name__ == "__main__":
    warnings.filterwarnings("error", category=EncodingWarning, module=r"(bench|adapters|fixtures)\b")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="cp1252", errors="strict")
    hide()
    sys.argv[0] = "parity"
    from bench.__main__ import main

    main()
