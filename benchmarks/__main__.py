"""`python -m benchmarks`: the same work through Truing and TRL in turn; prints and writes the figures.

Every side runs in a process of its own, told over a pipe to make one step at a time. The first step
of each is not timed: its matrix products are counted, and its loss and gradient norm are compared.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import psutil

from benchmarks import machine, report
from benchmarks.rounds import Growth, Result, measure, measure_growth
from benchmarks.work import works

_PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
GROWTH = "growth"
DTYPES = ("float32", "bfloat16")


def main() -> int:
    """Measure what was asked for; 1 when the two sides did not do the same work."""
    args = _arguments()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    rounds, default_rounds = (2, 0) if args.quick else (args.rounds, min(2, args.rounds))
    results: list[Result] = []
    growths: list[Growth] = []
    for name in args.only:
        for dtype in args.dtype:
            print(f"... {name}, {dtype}", file=sys.stderr, flush=True)
            if name == GROWTH:
                growths.append(measure_growth(dtype, num_rounds=rounds, threads=args.threads))
                print(report.growth_line(growths[-1]), flush=True)
                continue
            work = works()[name]
            peers = tuple(p for p in work.peers if p == "best" or (dtype == "bfloat16" and default_rounds))
            result = measure(
                work,
                dtype,
                peers=peers,
                num_rounds=rounds,
                num_default_rounds=default_rounds,
                threads=args.threads,
            )
            results.append(result)
            print(report.lines(result), flush=True)
    wrong = [line for result in results for line in result.disagreements()]
    for line in wrong:
        print(f"NOT THE SAME WORK: {line}", file=sys.stderr)
    if args.write and not wrong:
        text = report.page(machine.facts(), results, growths, threads=args.threads, num_rounds=rounds)
        args.write.write_text(text, encoding="utf-8")
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    names = [*(n for n, w in works().items() if w.peers), GROWTH]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="WORK", help=", ".join(names)
    )
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each side")
    parser.add_argument("--quick", action="store_true", help="two rounds, without TRL's defaults")
    parser.add_argument(
        "--threads",
        type=int,
        default=psutil.cpu_count(logical=False) or 1,
        help="of each side (default: the cores)",
    )
    parser.add_argument(
        "--write", type=Path, help="page of figures (default: docs/benchmarks.md of a full run)"
    )
    args = parser.parse_args()
    if not args.write and not args.quick and (args.only, args.dtype) == (names, DTYPES):
        args.write = _PAGE
    return args


if __name__ == "__main__":
    sys.exit(main())
