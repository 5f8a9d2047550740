"""The Python tool: a program's printed output, from a sandbox that is fresh for each call."""

from __future__ import annotations

from truing.sandbox.limits import Limits
from truing.sandbox.process import SubmissionError
from truing.sandbox.sandbox import Raised, shared_sandbox

_LIMITS = Limits(call_s=4.0, total_s=10.0, memory_mb=512)
_MAX_CHARS = 2000
_RUNNER = """
import contextlib, io

def run(code):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "call.py", "exec"), {"__name__": "__main__"})
    return printed.getvalue()
"""


def run_python(code: str) -> str:
    """Return what a program prints, cut at 2,000 characters.

    Raises:
        ValueError: it raises, prints nothing, or breaks a limit; the text says which.
        SandboxError: this machine cannot isolate untrusted code; nothing was run.
    """
    with shared_sandbox().submission(_LIMITS) as sandboxed:
        try:
            sandboxed.load(_RUNNER)
            printed = sandboxed.call("run", (code.strip(),))
        except SubmissionError as error:
            raise ValueError(f"the program did not finish: {error}") from error
    if isinstance(printed, Raised):
        raise ValueError(f"the program raises {printed}")
    if not isinstance(printed, str) or not printed.strip():
        raise ValueError("the program prints nothing; use print")
    return printed.rstrip() if len(printed) <= _MAX_CHARS else printed[:_MAX_CHARS] + " ... (cut)"
