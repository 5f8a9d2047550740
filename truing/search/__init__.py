"""Search at inference time: more tokens of a prompt for a better completion.

One file each strategy: `Config` and `search(found, config)`, a generator that asks for draws and scores and
adds finished paths to `found`. A Config says what the choice among them is (`choose`), whether a scorer is
needed (`needs_scorer`), and whether it must judge paths that are not finished (`scores_prefixes`).

    from truing.search import compare, text
    print(text(compare("recipes/search/word_problems.toml", "budget=1024")))
"""

from truing.search._compare import SearchComparison, compare
from truing.search._engine import Engine, Found, Scorer
from truing.search._labels import LabelReport, label_steps
from truing.search._plan import LabelPlan, Plan, load_label_plan, load_plan
from truing.search._records import Draw, Path, best, distinct, draw, score
from truing.search._report import plot, record, text
from truing.search._steps import Grammar

__all__ = [
    "Draw", "Engine", "Found", "Grammar", "LabelPlan", "LabelReport", "Path", "Plan", "Scorer",
    "SearchComparison", "best", "compare", "distinct", "draw", "label_steps", "load_label_plan", "load_plan",
    "plot", "record", "score", "text",
]  # fmt: skip
