"""Beam search over steps: every path grows by a step, and the best by their scores grow on.

Snell et al. 2024, arXiv:2408.03314, section 5.2; Beeching, Tunstall and Rush 2024 (search-and-learn). Of
num_beams paths the best num_beams / width are kept, and each is continued in `width` ways. Differs from
search-and-learn, whose beams are right for one prompt at a time, may be equal, and are ranked in the order
in which they finish: here prompts never mix, equal paths are kept once and their room goes to the others,
and what is finished competes by score alone.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from truing.config import Strict
from truing.search._records import Choice, Draw, Path, Search, best, distinct, draw, score


class Config(Strict):
    """Options of beam search."""

    choose: Choice = Field("best", description="among finished paths: the best one, or a vote")
    num_beams: int = Field(16, gt=0, description="paths after each step")
    width: int = Field(4, gt=0, description="continuations of each path that is kept")
    max_steps: int = Field(40, gt=0, description="after these, what is kept is completed in one go")

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
    """Grow beams until as many paths are finished as there are beams, or none is left."""
    beams, num_finished = [Path()], 0
    for _ in range(config.max_steps):
        num_samples = config.num_beams // len(beams)
        drawn = yield from draw([Draw(path, num_samples, whole=False) for path in beams])
        grown = yield from score(distinct([path for paths in drawn for path in paths]))
        finished = [path for path in grown if path.end is not None]
        found += finished
        num_finished += len(finished)
        beams = best([path for path in grown if path.end is None], config.num_beams // config.width)
        if not beams or num_finished >= config.num_beams:
            return
    drawn = yield from draw([Draw(path, 1, whole=True) for path in beams])
    found += yield from score([path for paths in drawn for path in paths])
