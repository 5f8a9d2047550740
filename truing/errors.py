"""One tree of errors under TruingError; each is also the fitting standard-library error."""

from __future__ import annotations


class TruingError(Exception):
    """Any error that Truing raises on purpose: it says what, where, and what would be right."""


class ConfigError(TruingError, ValueError):
    """A recipe, an option or an argument is wrong; raised before anything heavy is loaded."""


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
