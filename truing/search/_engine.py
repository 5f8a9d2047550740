"""Runs searches side by side: one forward pass for what all of them ask, each on its own prompt and purse.

A budget ends wherever it ends: a completion or a scoring that it cuts off is paid for up to there and gives
nothing. So every search with a budget spends exactly that, and a search that is done begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from truing.errors import ModelError
from truing.evals.votes import Aggregation, aggregate_steps
from truing.rollout.sampler import Sampler, SamplingParams
from truing.search._budget import Spent
from truing.search._records import Draw, Draws, Path, Scores, Search, Start
from truing.search._steps import Grammar
from truing.train.order import seed_of
from truing.types import Completion

_ROUND = 32  # lengths of whole completions are rounded up to this, so that they share a call

Key = tuple[bool, int, int]


class Scorer(Protocol):
    """What says how good paths are."""

    @property
    def prefixes(self) -> bool:
        """Return whether it scores unfinished paths."""
        ...

    def cost(self, problem: int, paths: Sequence[Path]) -> int:
        """Return how many tokens it reads to score these paths of one problem."""
        ...

    def score(self, asks: Sequence[tuple[int, Path]]) -> list[tuple[float, ...]]:
        """Return the scores of the steps of each path of a problem, in [0, 1]; none where it has none."""
        ...


@dataclass(frozen=True, slots=True)
class Engine:
    """What draws and what scores.

    Args:
        sampler: draws continuations of token ids.
        grammar: what the ids mean.
        scorer: None where no search needs one.
        aggregate: how the scores of steps become one value.
        max_tokens: of a completion.
        max_step_tokens: of a step; a longer one is cut there and goes on as the next.
        temperature: of the sampler.
    """

    sampler: Sampler
    grammar: Grammar
    scorer: Scorer | None
    aggregate: Aggregation = "last"
    max_tokens: int = 256
    max_step_tokens: int = 64
    temperature: float = 1.0

    def run(
        self, prompts: Sequence[Sequence[int]], start: Start, *, budget: int | None = None, seed: int = 0
    ) -> list[Found]:
        """Return what the search finds for each prompt; a function of the prompts, the budget and the seed.

        Args:
            prompts: ids that paths continue.
            start: begins the search of a prompt by its number.
            budget: tokens of each prompt, generated and scored; None runs each search once.
            seed: of the sampling.
        """
        tasks = [_Task(i, tuple(p), start, Spent(budget)) for i, p in enumerate(prompts)]
        active, tick = [task for task in tasks if task.begin()], 0
        while active:
            self._draw([t for t in active if isinstance(t.ask, Draws)], seed_of(seed, "search", tick))
            self._score([t for t in active if isinstance(t.ask, Scores)])
            active, tick = [task for task in active if task.advance()], tick + 1
        return [Found(tuple(task.found), task.spent) for task in tasks]

    def _draw(self, tasks: Sequence[_Task], seed: int) -> None:
        wanted = dict[Key, list[tuple[_Task, int, Draw]]]()
        longest = max((len(t.prompt) for t in tasks), default=0) + self.max_tokens
        for task in tasks:
            assert isinstance(task.ask, Draws)
            task.reply = [[] for _ in task.ask.asks]
            for place, ask in enumerate(task.ask.asks):
                wanted.setdefault(self._key(task, ask, longest), []).append((task, place, ask))
        drawn = dict[tuple[int, int], list[Completion]]()
        for key, group in sorted(wanted.items(), key=lambda item: item[0]):
            rows = self._generate(key, group, seed_of(seed, *key))
            drawn |= {(t.problem, place): row for (t, place, _), row in zip(group, rows, strict=True)}
        for task in tasks:
            assert isinstance(task.ask, Draws)
            for place, ask in enumerate(task.ask.asks):
                task.spent.read += 0 if task.spent.over else len(task.prompt) + len(ask.path.tokens)
                paths = [self._grown(ask, completion, task) for completion in drawn[task.problem, place]]
                task.reply[place] = [path for path in paths if path is not None]

    def _key(self, task: _Task, ask: Draw, longest: int) -> Key:
        """Return what draws must share to be of one call of the sampler."""
        length = len(ask.path.tokens)
        room = self.max_tokens - length
        if not ask.whole:
            return ask.whole, ask.num_samples, min(room, self.max_step_tokens)
        rounded = min(-(-room // _ROUND) * _ROUND, longest - len(task.prompt) - length)
        return ask.whole, ask.num_samples, rounded

    def _generate(
        self, key: Key, group: Sequence[tuple[_Task, int, Draw]], seed: int
    ) -> list[list[Completion]]:
        whole, num_samples, max_tokens = key
        stops = self.grammar.stops if whole else self.grammar.stops | self.grammar.separators
        params = SamplingParams(
            max_tokens=max_tokens,
            stop_token_ids=tuple(sorted(stops)),
            temperature=self.temperature,
            seed=seed,
        )
        prompts = [task.prompt + ask.path.tokens for task, _, ask in group]
        return self.sampler.generate(prompts, params, num_samples=num_samples)

    def _grown(self, ask: Draw, completion: Completion, task: _Task) -> Path | None:
        """Return the path with what was drawn, and pay for it; None where the budget ended inside it."""
        tokens = (ask.path.tokens + completion.tokens)[: self.max_tokens]
        if not task.spent.generate(len(tokens) - len(ask.path.tokens)):
            return None
        if tokens[-1] in self.grammar.stops:
            return Path(tokens, "stop")
        return Path(tokens, "length" if ask.whole or len(tokens) >= self.max_tokens else None)

    def _score(self, tasks: Sequence[_Task]) -> None:
        asks = list[tuple[int, Path]]()
        for task in tasks:
            assert isinstance(task.ask, Scores)
            paths, scorer = task.ask.paths, self._scorer(task.ask.paths)
            paid = task.spent.score(scorer.cost(task.problem, paths))
            task.reply = None if paid else [replace(p, scores=None, value=None) for p in paths]
            asks += [(task.problem, path) for path in paths] if paid else []
        scored = iter(self.scorer.score(asks) if self.scorer is not None and asks else [])
        for task in tasks:
            if task.reply is None and isinstance(task.ask, Scores):
                task.reply = [self._valued(path, next(scored)) for path in task.ask.paths]

    def _scorer(self, paths: Sequence[Path]) -> Scorer:
        if self.scorer is None:
            raise ModelError("this search scores what it draws: give it a scorer")
        if not self.scorer.prefixes and any(path.end is None for path in paths):
            raise ModelError("the scorer judges finished completions only, and this search asks for prefixes")
        return self.scorer

    def _valued(self, path: Path, scores: tuple[float, ...]) -> Path:
        if not all(0 <= s <= 1 for s in scores):
            raise ModelError(f"the scorer gave {scores}; scores of steps are numbers in [0, 1]")
        return replace(path, scores=scores, value=aggregate_steps(scores, self.aggregate) if scores else None)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found for a prompt, in its order, and what it cost."""

    paths: tuple[Path, ...]
    spent: Spent


@dataclass(slots=True)
class _Task:
    problem: int
    prompt: tuple[int, ...]
    start: Start
    spent: Spent
    found: list[Path] = field(default_factory=list)
    search: Search | None = None
    ask: Draws | Scores | None = None
    reply: Any = None

    def begin(self) -> bool:
        """Start the search and return whether it asks for anything."""
        self.search = self.start(self.problem, self.found)
        self.ask = next(self.search, None)
        return self.ask is not None

    def advance(self) -> bool:
        """Hand over the reply and return whether there is another request; a budget begins it anew."""
        assert self.search is not None
        try:
            self.ask = self.search.send(self.reply)
        except StopIteration:
            return self.spent.budget is not None and not self.spent.over and self.begin()
        if self.spent.over:
            self.search.close()
            return False
        return True
