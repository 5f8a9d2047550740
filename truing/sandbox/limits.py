"""How much untrusted code may use, and the command line that confines it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from truing.errors import SandboxError

INSTALL = (
    "install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap), "
    "which Linux alone has"
)
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sandbox may use.

    Args:
        call_s: wall clock of loading the code, and of each call [s].
        total_s: wall clock of everything together, start-up left out [s].
        cpu_s: processor time of each process in it [s].
        memory_mb: address space of each process, and memory of all together [MiB].
        processes: processes and threads at one time.
        files: open files of each process.
        file_mb: the largest file [MiB]; /tmp, the only place to write, holds this much.
        reply_bytes: of one value that comes out.
    """

    call_s: float = 4.0
    total_s: float = 20.0
    cpu_s: int = 10
    memory_mb: int = 512
    processes: int = 32
    files: int = 64
    file_mb: int = 16
    reply_bytes: int = 1_000_000

    def rlimits(self) -> dict[str, int]:
        """Return the limits that the kernel keeps for each process."""
        return {
            "RLIMIT_AS": self.memory_mb << 20,
            "RLIMIT_CPU": self.cpu_s,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_NOFILE": self.files,
            "RLIMIT_FSIZE": self.file_mb << 20,
            "RLIMIT_CORE": 0,
        }


def find_bwrap() -> str:
    """Return bubblewrap's path.

    Raises:
        SandboxError: it is not installed, or this is no Linux.
    """
    path = shutil.which("bwrap")
    if path is None or not sys.platform.startswith("linux"):
        raise SandboxError(f"untrusted code needs a sandbox, and there is no bubblewrap here: {INSTALL}")
    return path


def find_python() -> str:
    """Return an interpreter that lies in /usr, where the sandbox can see it.

    Raises:
        SandboxError: there is none.
    """
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    for path in (base, Path("/usr/bin/python3"), Path("/usr/local/bin/python3")):
        if path.is_file() and path.is_relative_to("/usr"):
            return str(path)
    raise SandboxError("the sandbox sees no Python: install one in /usr (Debian: apt-get install python3)")


def command(
    limits: Limits, *, uid: int | None, bwrap: str, python: str,
    status_fd: int, requests_fd: int, replies_fd: int,
    programs: Mapping[str, int], rlimits: str,
) -> list[str]:  # fmt: skip
    """Return the command line of a sandboxed child.

    Args:
        limits: what it may use.
        uid: the user it becomes, where this process is root; None keeps the own user. The kernel does
            not bind root by a number of processes, not even inside a user namespace.
        bwrap: path of bubblewrap.
        python: path of the interpreter, below /usr.
        status_fd: where bubblewrap writes the child's process id.
        requests_fd: what the child reads.
        replies_fd: what the child writes.
        programs: files for /sandbox, by name, as descriptors from which their text is read.
        rlimits: `limits.rlimits()` as JSON.
    """
    become = []
    if uid is not None:
        become = [shutil.which("setpriv") or "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
                  "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]  # fmt: skip
    mounts = list[str]()
    for path in _SYSTEM:
        if os.path.islink(path):
            mounts += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            mounts += ["--ro-bind", path, path]
    confined = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session",
                "--clearenv", "--cap-drop", "ALL", "--hostname", "sandbox"]  # fmt: skip
    mounts += ["--proc", "/proc", "--dev", "/dev", "--size", str(limits.file_mb << 20), "--tmpfs", "/tmp"]
    mounts += ["--dir", "/sandbox"]
    for name, fd in programs.items():
        mounts += ["--perms", "0444", "--ro-bind-data", str(fd), f"/sandbox/{name}"]
    variables = {"HOME": "/tmp", "PATH": "/usr/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}
    sets = [word for name, value in variables.items() for word in ("--setenv", name, value)]
    closed = ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]
    child = [python, "-I", "-B", "/sandbox/child.py", str(requests_fd), str(replies_fd), rlimits]
    status = ["--json-status-fd", str(status_fd)]
    return [*become, bwrap, *confined, *mounts, *sets, *closed, *status, "--", *child]
