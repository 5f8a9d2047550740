"""One HTML file that explains a run: what got better, by how much, and how it went."""

from __future__ import annotations

from truing.report.report import write_report

__all__ = ["write_report"]
