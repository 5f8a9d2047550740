"""One tree of errors under TruingError; each is also the fitting standard-library error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


class TruingError(Exception):
    """Any error that Truing raises on purpose: it says what, where, and what would be right."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a recipe.

    Args:
        where: file and line, the number of an override, or the call.
        key: dotted, as an override would name it; "" when it is about no key.
        what: what is wrong.
        right: what would be right.
    """

    where: str
    key: str
    what: str
    right: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.where}: {key}{self.what}\n    {self.right}"


class ConfigError(TruingError, ValueError):
    """A recipe, an option or an argument is wrong; raised before anything heavy is loaded.

    `problems` lists everything that is wrong with a recipe, when it is about one.
    """

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class DataError(TruingError, ValueError):
    """A data file or a row is wrong; the message names file, row and key."""


class PluginError(TruingError, LookupError):
    """A name, dotted path or file path does not lead to a usable plug-in."""


class ModelError(TruingError, ValueError):
    """A model or tokenizer cannot be found, loaded or used as asked."""


class CheckpointError(TruingError, OSError):
    """A checkpoint is missing, incomplete or altered."""


class NonFiniteError(TruingError, ArithmeticError):
    """A loss or a gradient is not finite; the message names the offending rows."""


class MismatchError(TruingError, RuntimeError):
    """Sampler and learner disagree on log-probs by more than the threshold: stale or wrong weights."""


class VerifierError(TruingError, RuntimeError):
    """A verifier's worker cannot be started; a single bad completion never raises this."""


class JudgeError(TruingError, RuntimeError):
    """An endpoint gave no usable reply: `status` is "timed_out" or "failed".

    A judge turns it into a verdict of that status; only who asks an endpoint directly meets it.
    """

    def __init__(
        self,
        message: str,
        status: Literal["timed_out", "failed"] = "failed",
        *,
        retry: bool = False,
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.status, self.retry, self.retry_after_s = status, retry, retry_after_s


class SandboxError(TruingError, RuntimeError):
    """Untrusted code cannot be isolated on this machine, so it is not run at all."""
