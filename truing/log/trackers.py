"""Experiment trackers, all optional and none by default; each package is imported in one place here.

A tracker that cannot start stops the run before it has cost anything. One that fails later is
named once and left out: a logging service that is down never ends a training run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from truing.errors import ConfigError

_PROJECT = "truing"
_logger = logging.getLogger("truing")


@dataclass(frozen=True, slots=True)
class Sink:
    """One open tracker: what sends a step's metrics, and what ends it."""

    name: str
    log: Callable[[int, Mapping[str, float]], None]
    close: Callable[[], None]


@dataclass(slots=True)
class Tracker:
    """Sends metrics to every open tracker; `warn` is told once of each that fails, and it is left out."""

    sinks: list[Sink] = field(default_factory=list)
    warn: Callable[[str], None] = _logger.warning

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send one step's metrics; never raises."""
        self._each(lambda sink: sink.log(step, metrics))

    def close(self) -> None:
        """Flush and end every tracker; never raises."""
        self._each(lambda sink: sink.close())
        self.sinks = []

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self.sinks):
            try:
                call(sink)
            except (
                Exception
            ) as error:  # any kind: each tracker has errors of its own, of its network and its disk
                self.sinks.remove(sink)
                self.warn(f"tracker {sink.name} failed and is left out: {type(error).__name__}: {error}")


def open_trackers(
    names: Sequence[str],
    run_name: str,
    config: Mapping[str, Any],
    *,
    folder: Path | None = None,
    warn: Callable[[str], None] = _logger.warning,
) -> Tracker:
    """Return the named trackers as one; with no names, one that does nothing.

    Args:
        names: of trackio, wandb, mlflow, tensorboard.
        run_name: what the tracker shows.
        config: the stage's options, sent once.
        folder: where tensorboard writes; None is `runs/tensorboard/<run_name>`.
        warn: takes the message when a tracker fails later.

    Raises:
        ConfigError: a name is unknown, its package is not installed, or it cannot start.
    """
    tracker = Tracker(warn=warn)
    for name in names:
        if name not in _OPENERS:
            raise ConfigError(f"log.trackers: unknown tracker {name!r}; known: {', '.join(_OPENERS)}")
        try:
            sink = _OPENERS[name](run_name, config, folder)
        except ModuleNotFoundError as error:
            tracker.close()
            raise ConfigError(
                f"log.trackers: {name} cannot be imported ({error}). Install it: pip install 'truing[{name}]'"
            ) from error
        except Exception as error:
            tracker.close()
            raise ConfigError(
                f"log.trackers: {name} could not start: {type(error).__name__}: {error}. "
                "Set it up, or take it out of log.trackers."
            ) from error
        tracker.sinks.append(sink)
    return tracker


def _trackio(run_name: str, config: Mapping[str, Any], folder: Path | None) -> Sink:
    trackio = import_module("trackio")
    trackio.init(project=_PROJECT, name=run_name, config=dict(config))
    return Sink("trackio", lambda step, metrics: trackio.log(dict(metrics), step=step), trackio.finish)


def _wandb(run_name: str, config: Mapping[str, Any], folder: Path | None) -> Sink:
    os.environ.setdefault(
        "WANDB_ERROR_REPORTING", "false"
    )  # its reports to its makers; WANDB_MODE is the user's
    wandb = import_module("wandb")
    run = wandb.init(project=_PROJECT, name=run_name, config=dict(config))
    return Sink("wandb", lambda step, metrics: run.log(dict(metrics), step=step), run.finish)


def _mlflow(run_name: str, config: Mapping[str, Any], folder: Path | None) -> Sink:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = import_module("mlflow")
    mlflow.set_experiment(_PROJECT)
    mlflow.start_run(run_name=run_name)
    mlflow.log_params({key: str(value)[:500] for key, value in _flat(config).items()})
    return Sink("mlflow", lambda step, metrics: mlflow.log_metrics(dict(metrics), step=step), mlflow.end_run)


def _tensorboard(run_name: str, config: Mapping[str, Any], folder: Path | None) -> Sink:
    writer_class = import_module("torch.utils.tensorboard").SummaryWriter
    writer = writer_class(log_dir=str(folder or Path("runs", "tensorboard", run_name)))
    options = "\n".join(f"    {key} = {value}" for key, value in _flat(config).items())
    writer.add_text("options", options)

    def log(step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return Sink("tensorboard", log, writer.close)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


_OPENERS: Mapping[str, Callable[[str, Mapping[str, Any], Path | None], Sink]] = {
    "trackio": _trackio,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
}
