"""Tokens per second of the embedded sampler against `model.generate` at its best batch size.

8 prompts x 8 completions x at most 64 tokens, bfloat16, temperature 1, on SmolLM2-135M-Instruct.
Both sides produce the same number of tokens in every row: the embedded sampler draws first, and a
stopping criterion ends each row of `model.generate` at the length that was drawn. Runs alternate;
the ratio is the median over pairs, of wall time and of processor time. On a CPU that others use too,
processor time with `--threads 1` is the steadier of the two.

    python benchmarks/sampler.py --pairs 5 --threads 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch
from transformers import GenerationConfig, StoppingCriteriaList

from truing.model.load import load_model
from truing.rollout.hf import HFSampler
from truing.rollout.sampler import SamplingParams
from truing.types import Completion

NUM_PROMPTS, NUM_SAMPLES, MAX_TOKENS = 8, 8, 64
TOPIC = "Explain step by step why the sky is blue at noon and red in the evening, with one example. "


def now() -> np.ndarray:
    """Return the wall clock and this process's processor time [s]."""
    return np.array([time.perf_counter(), time.process_time()])


def make_prompts(tokenizer, tokens: int) -> list[list[int]]:
    """Return prompts of unequal lengths, from three quarters of `tokens` up to it."""
    text = tokenizer(TOPIC * (tokens // 10), add_special_tokens=False).input_ids
    lengths = [tokens - i * tokens // (4 * NUM_PROMPTS) for i in range(NUM_PROMPTS)]
    return [text[i : i + n] for i, n in enumerate(lengths)]


def time_ours(sampler: HFSampler, prompts, stops: tuple[int, ...], seed: int):
    """Return (wall, processor) seconds and completions of the embedded sampler."""
    params = SamplingParams(max_tokens=MAX_TOKENS, stop_token_ids=stops, seed=seed)
    start = now()
    completions = sampler.generate(prompts, params, num_samples=NUM_SAMPLES)
    return now() - start, [c for group in completions for c in group]


def time_generate(model, prompts, completions: Sequence[Completion], batch_size: int):
    """Return (wall, processor) seconds and tokens of `model.generate`, rows as long as the completions."""
    rows = [p for p in prompts for _ in range(NUM_SAMPLES)]
    config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=MAX_TOKENS, pad_token_id=0
    )
    start, count = now(), 0
    for first in range(0, len(rows), batch_size):
        part = rows[first : first + batch_size]
        wanted = torch.tensor([len(c.tokens) for c in completions[first : first + batch_size]])
        width = max(map(len, part))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in part], device=model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part], device=model.device)

        def reached(input_ids, scores, *, wanted=wanted, width=width, **_):
            return (wanted <= input_ids.shape[1] - width).to(input_ids.device)

        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([reached]),
            )
        count += int(torch.minimum(wanted, torch.tensor(out.shape[1] - width)).sum())
    return now() - start, count


def best_batch_size(model, prompts, completions: Sequence[Completion], sizes: Sequence[int]) -> int:
    """Return the batch size with which `model.generate` is fastest, each tried twice."""
    best = {b: min(time_generate(model, prompts, completions, b)[0][1] for _ in range(2)) for b in sizes}
    tokens = sum(len(c.tokens) for c in completions)
    print(
        "model.generate [tokens per processor second]: "
        + ", ".join(f"{b} rows: {tokens / t:.0f}" for b, t in best.items())
    )
    return min(best, key=lambda b: best[b])


def compare(name: str, model, sampler: HFSampler, prompts, stops: tuple[int, ...], args) -> None:
    """Print the ratio for one way to stop."""
    _, completions = time_ours(sampler, prompts, stops, seed=0)
    time_generate(model, prompts, completions, NUM_PROMPTS * NUM_SAMPLES)  # warm
    size = best_batch_size(model, prompts, completions, args.batch_sizes)
    ratios, ours, theirs = [], [], []
    for pair in range(args.pairs):
        seconds, completions = time_ours(sampler, prompts, stops, seed=pair)
        other, count = time_generate(model, prompts, completions, size)
        tokens = sum(len(c.tokens) for c in completions)
        assert tokens == count, f"unequal work: {tokens} tokens against {count}"
        ratios.append(other / seconds)
        ours.append(tokens / seconds)
        theirs.append(tokens / other)
    wall, cpu = np.median(ratios, axis=0)
    pairs = ", ".join(f"{w:.2f}/{c:.2f}" for w, c in ratios)
    speeds = [np.median(x, axis=0)[0] for x in (ours, theirs)]
    print(f"{name}: {wall:.2f}x the tokens/s of model.generate at {size} rows, {cpu:.2f}x by processor time")
    print(
        f"    pairs (wall/processor) {pairs}; {speeds[0]:.0f} against {speeds[1]:.0f} tokens/s, {tokens} each"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=200)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 32, 16])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    loaded = load_model("smollm2-135m-instruct", device=args.device)
    sampler = HFSampler(loaded.model, loaded.tokenizer, dtype=torch.bfloat16)
    model = loaded.model.to(torch.bfloat16)
    model.generation_config.eos_token_id = None
    prompts = make_prompts(loaded.tokenizer, args.prompt_tokens)
    compare("equal lengths", model, sampler, prompts, (), args)
    # each fortieth id ends a row: about one token in forty, so half of the rows end within 28 tokens
    compare("unequal lengths", model, sampler, prompts, tuple(range(0, model.config.vocab_size, 40)), args)


if __name__ == "__main__":
    main()
