"""Diverse verifier tree search: beam search in subtrees that do not compete with each other.

Beeching, Tunstall and Rush 2024 (search-and-learn). There are num_beams / width subtrees; each grows
`width` steps at a time and goes on from the best of them. Every path that a subtree finishes can be chosen.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from truing.config import Strict
from truing.search._records import Choice, Draw, Path, Search, best, distinct, draw, score


class Config(Strict):
    """Options of diverse verifier tree search."""

    choose: Choice = Field("best", description="among finished paths: the best one, or a vote")
    num_beams: int = Field(16, gt=0, description="paths after each step, of all subtrees")
    width: int = Field(4, gt=0, description="steps that each subtree draws at a time")
    max_steps: int = Field(40, gt=0, description="after these, each subtree is completed in one go")

    @property
    def needs_scorer(self) -> bool:
        """A scorer is needed."""
        return True

    @property
    def scores_prefixes(self) -> bool:
        """The scorer must judge paths that are not finished."""
        return True

    @model_validator(mode="after")
    def _divides(self) -> Config:
        if self.num_beams % self.width:
            raise ValueError(f"num_beams ({self.num_beams}) must be a multiple of width ({self.width})")
        return self


def search(found: list[Path], config: Config) -> Search:
    """Grow every subtree by its best step until it is finished."""
    beams = [Path()] * (config.num_beams // config.width)
    for _ in range(config.max_steps):
        drawn = yield from draw([Draw(path, config.width, whole=False) for path in beams])
        drawn = [distinct(paths) for paths in drawn]
        grown = iter((yield from score([path for paths in drawn for path in paths])))
        subtrees = [[next(grown) for _ in paths] for paths in drawn]
        found += [path for paths in subtrees for path in paths if path.end is not None]
        beams = [path for paths in subtrees for path in best(paths, 1) if path.end is None]
        if not beams:
            return
    drawn = yield from draw([Draw(path, 1, whole=True) for path in beams])
    found += yield from score([path for paths in drawn for path in paths])
