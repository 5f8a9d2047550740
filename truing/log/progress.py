"""Live progress: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

_WINDOW = 20  # steps over which speed is averaged


class Progress:
    """Shows phase, step, the headline metric, tokens per second and the time left.

    It writes to standard error, so that standard output stays free for results. In a notebook and
    where output is not a terminal it prints a line at most every `interval_s` seconds.

    Args:
        quiet: show nothing.
        console: where to write; None is standard error.
        interval_s: seconds between plain lines.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        console: Console | None = None,
        interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True)
        self._quiet, self._interval_s, self._clock = quiet, interval_s, clock
        live = not quiet and self._console.is_terminal and not self._console.is_jupyter
        self._bar = _bar(self._console) if live else None
        self._task: TaskID | None = None
        self._printed = -math.inf
        self._stage, self._num_steps, self._printed = "", 0, -math.inf
        self.restart_clock()

    def __enter__(self) -> Progress:
        """Start the live display."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the terminal."""
        if self._bar is not None:
            self._bar.stop()

    def stage(self, name: str, algorithm: str, num_steps: int) -> None:
        """Begin a stage; the bar of the one before stays above it."""
        self._stage, self._num_steps, self._printed = name, num_steps, -math.inf
        self.restart_clock()
        if self._bar is not None:
            self._task = self._bar.add_task(name, total=num_steps, phase="", figures=algorithm)
        else:
            self._print(f"{name}: {algorithm}, {num_steps} steps")

    def restart_clock(self) -> None:
        """Take the speed and the time left from now on: what came before was no training step."""
        self._ticks = deque([(self._clock(), 0)], maxlen=_WINDOW + 1)

    def phase(self, name: str) -> None:
        """Say what happens now: collect, train or evaluate."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, phase=name)
        elif name == "evaluate":
            self._print(f"{self._stage}: evaluating")

    def step(self, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        """Show that a step is done.

        Args:
            step: its number, from 0.
            metrics: of the step; reward/mean is shown, or else the first loss.
            tokens: completion tokens of its batch.
        """
        self._ticks.append((self._clock(), tokens))
        figures = "  ".join(part for part in (headline(metrics), *self._speed(step + 1)) if part)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step + 1, figures=figures)
        elif self._clock() - self._printed >= self._interval_s or step + 1 == self._num_steps:
            self._print(f"{self._stage}: step {step + 1}/{self._num_steps}  {figures}")
            self._printed = self._clock()

    def note(self, text: str) -> None:
        """Print a line that stays, such as the result of an evaluation."""
        self._print(text)

    def _speed(self, done: int) -> tuple[str, ...]:
        seconds = self._ticks[-1][0] - self._ticks[0][0]
        num = len(self._ticks) - 1
        if num < 1 or seconds <= 0:
            return ()
        tokens = sum(count for _, count in list(self._ticks)[1:])
        left = (self._num_steps - done) * seconds / num
        return f"{tokens / seconds:,.0f} tokens/s", f"{duration(left)} left" if left > 0 else ""

    def _print(self, text: str) -> None:
        if not self._quiet:
            self._console.print(Text(text), soft_wrap=True)


def headline(metrics: Mapping[str, float]) -> str:
    """Return the one figure that says most: the mean reward, or else the first loss."""
    loss = next((name for name in metrics if name.startswith("loss/")), None)
    name = "reward/mean" if "reward/mean" in metrics else loss
    return "" if name is None else f"{name} {metrics[name]:.4g}"


def duration(seconds: float | int) -> str:
    """Return a time as people say it: 42 s, 3 min 05 s, 2 h 07 min, 3 d 04 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def _bar(console: Console) -> Bar:
    columns = (
        TextColumn("[bold]{task.description}"),
        TextColumn("{task.fields[phase]:<8}", style="dim"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    return Bar(*columns, console=console)
