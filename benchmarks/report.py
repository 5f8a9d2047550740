"""Figures as people read them: lines for a terminal, tables for docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.rounds import Growth, Result, Worker
from benchmarks.work import median

# work: (time ratio to reach on a CPU, on one H100)
TARGETS = {
    "sft": (2.0, 1.2),
    "dpo": (3.5, 1.5),
    "grpo": (5.0, 2.0),
    "iteration": (3.0, 1.5),
    "sampling": (2.5, 3.0),
}
GROWTH_TARGET = 2.2

_INTRODUCTION = """# Benchmarks

The same work through Truing and through TRL on SmolLM2-135M, written by `make bench`. Each side runs in
a process of its own with all cores, and the sides make one step each in turn, so a ratio compares
moments that lie next to each other. A ratio is the median over the rounds; over 1, Truing is faster
or smaller. Absolute times are of the machine below and of nothing else.

TRL runs its own trainers and its own loop. *Best* is the fastest of its settings that was found: no
activation checkpointing, the reference's log-probs precomputed, weights in the compute type without
autocast (so its bfloat16 AdamW keeps no float32 masters, and Truing's does). *Default* keeps
TRL's defaults: bfloat16 autocast over float32 weights, checkpointing, the reference as a second model.
Neither side is compiled. Both have the same environment (GOMP_SPINCOUNT=10000, which `import truing` sets;
it matters only beside other busy programs), data, optimizer (AdamW, the same hyper-parameters), clipping
and trained tokens; in float32 the losses and gradient norms before the first update agree to 1e-3 or
the run fails.
"""

_LEGEND = """
- **peak**: resident memory of the whole process at its highest, weights and optimizer state included.
- **step**: the same, less what the process held before the step: activations, gradients, buffers.
- **of the floor**: the floor's time over the time taken. The floor is 6 FLOPs for each parameter and token
  (2 where tokens are generated), every prefix once, the LM head only on trained positions, attention
  by what each token sees, at the matmul rate that was measured between the rounds.
"""

_COUNTS = """
## What was computed

Counted from the matrix products that PyTorch ran in one step: *tokens* are FLOPs through the layers over
6 x their parameters, *head* the same for the LM head (a forward pass that is repeated counts again).
The floor needs the last two columns.
"""


def lines(result: Result) -> str:
    """Return a few lines for a terminal."""
    title = f"{result.work.title}, {result.dtype}, {median(result.rates) / 1e9:.0f} GFLOP/s"
    return "\n".join([title, *(_line(result, n, w) for n, w in _workers(result).items())])


def growth_line(growth: Growth) -> str:
    """Return a line for a terminal."""
    return (
        f"group size 8 -> 32 at 1,024 + 64, {growth.dtype}: {growth.ratio:.2f}x time "
        f"(target <= {GROWTH_TARGET}), {growth.floor_ratio:.2f}x FLOPs"
    )


def page(
    facts: Mapping[str, str],
    results: Sequence[Result],
    growths: Sequence[Growth],
    *,
    threads: int,
    num_rounds: int,
) -> str:
    """Return docs/benchmarks.md."""
    machine = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    rates = {r.dtype: f"{median(r.rates) / 1e9:.0f} GFLOP/s in {r.dtype}" for r in results}
    parts = [
        _INTRODUCTION,
        f"## The machine\n\n{machine}\n- threads of each side: {threads}; rounds: {num_rounds}",
        f"- matrix products: {', '.join(rates.values())}\n" if rates else "",
        _times(results, gpu=facts["GPU"] != "none"),
        _LEGEND,
        _growth_table(growths),
        _COUNTS if results else "",
        _counts(results),
    ]
    return "\n".join(part for part in parts if part).rstrip() + "\n"


def _workers(result: Result) -> dict[str, Worker]:
    return {"Truing": result.ours, **{f"TRL, {name}": w for name, w in result.peers.items()}}


def _line(result: Result, name: str, worker: Worker) -> str:
    peak, step = result.peak_bytes(worker) / 2**30, result.step_bytes(worker) / 2**30
    parts = [
        f"  {name:12s} {result.seconds(worker):8.2f} s",
        f"{result.cpu_seconds(worker):8.2f} s of processor",
        f"{_percent(result, worker):>4s} of the floor",
        f"peak {peak:.2f} GiB, step {step:.2f} GiB",
    ]
    if worker.side == "trl":
        parts.append(f"{result.speedup(worker.variant):.2f}x")
    return "   ".join(parts)


def _percent(result: Result, worker: Worker) -> str:
    return f"{100 * result.fraction_of_floor(worker):.0f}%"


def _times(results: Sequence[Result], *, gpu: bool) -> str:
    rows = [
        "## Time and memory\n",
        "| work | type | Truing [s] | TRL best [s] | **ratio** | target | ratio to default | peak | step | "
        "of the floor: Truing | TRL best |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        best = r.peers["best"]
        default = f"{r.speedup('default'):.2f}x" if "default" in r.peers else ""
        cells = [
            r.work.title,
            r.dtype,
            f"{r.seconds(r.ours):.2f}",
            f"{r.seconds(best):.2f}",
            f"**{r.speedup('best'):.2f}x**",
            f"{TARGETS[r.work.name][gpu]}x",
            default,
            f"{r.peak_bytes(best) / r.peak_bytes(r.ours):.2f}x",
            f"{r.step_bytes(best) / r.step_bytes(r.ours):.2f}x",
            _percent(r, r.ours),
            _percent(r, best),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _growth_table(growths: Sequence[Growth]) -> str:
    if not growths:
        return ""
    rows = [
        "## Growth\n",
        "Group size 8 to 32, prompt of 1,024 tokens, completions of 64: Truing's training step.\n",
        "| type | 8 [s] | 32 [s] | **time** | target | FLOPs of the floor |",
        "|---|---|---|---|---|---|",
    ]
    for g in growths:
        small, large = median(g.small), median(g.large)
        times = f"{small:.2f} | {large:.2f} | **{g.ratio:.2f}x** | <= {GROWTH_TARGET}x"
        rows.append(f"| {g.dtype} | {times} | {g.floor_ratio:.2f}x |")
    return "\n".join(rows) + "\n"


def _counts(results: Sequence[Result]) -> str:
    rows = [
        "| work | type | side | TFLOP | tokens | head | attention [TFLOP] | floor: tokens | head |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        for name, worker in _workers(r).items():
            flops = {k: worker.counted["flops"].get(k, 0.0) for k in ("trunk", "head", "attention")}
            cells = [
                r.work.name, r.dtype, name, f"{sum(flops.values()) / 1e12:.2f}",
                f"{flops['trunk'] / 6 / r.model.trunk():,.0f}", f"{flops['head'] / 6 / r.model.head():,.0f}",
                f"{flops['attention'] / 1e12:.2f}", f"{r.floor.trunk_tokens:,}", f"{r.floor.head_tokens:,}",
            ]  # fmt: skip
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) if results else ""
