"""What a run writes while it runs: its folder, the terminal, and trackers."""

from __future__ import annotations

from truing.log.jsonl import read_jsonl, read_metrics
from truing.log.metric_help import METRICS, help_of
from truing.log.progress import Progress
from truing.log.run_log import RunLog, StageLog, read_run
from truing.log.trackers import Tracker, open_trackers

__all__ = [
    "METRICS",
    "Progress",
    "RunLog",
    "StageLog",
    "Tracker",
    "help_of",
    "open_trackers",
    "read_jsonl",
    "read_metrics",
    "read_run",
]
