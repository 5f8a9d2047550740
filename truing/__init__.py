"""Truing: align language models, from one recipe on a laptop upwards.

    import truing

    run = truing.run("recipes/quickstart.toml", "stages.grpo.steps=10")
    run = truing.train("dpo", model="smollm2-135m-instruct", data="pairs.jsonl", epochs=1)
    print(run.folder, run.metrics[-1], run.policy.generate("What is 3 + 4?"))

Importing the package imports neither torch nor transformers; the first run does.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

from truing import train as _train_package  # without its modules it is empty, and light: see _Train

if TYPE_CHECKING:
    from truing.api import resume, run, sample, train
    from truing.recipe import load_recipe, recipe_from_dict, resolved

__all__ = ["__version__", "load_recipe", "recipe_from_dict", "resolved", "resume", "run", "sample", "train"]

# On a CPU torch's threads wait for each other by spinning, 300,000 turns before they sleep. Beside another
# busy process a decoding step is then thirty times slower; after 10,000 turns it is not, and an idle machine
# shows no difference. It must be set before torch is imported; a value of the user's own is kept.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_HOMES = {
    "run": "truing.api",
    "resume": "truing.api",
    "sample": "truing.api",
    "load_recipe": "truing.recipe",
    "recipe_from_dict": "truing.recipe",
    "resolved": "truing.recipe",
}


class _Train(ModuleType):
    """Lets `truing.train(...)` train, although `truing.train` is also the package of the loop.

    Importing any module of the package sets this name, so a function would not stay under it.
    """

    def __call__(self, *args: Any, **keys: Any) -> Any:
        return importlib.import_module("truing.api").train(*args, **keys)


_train_package.__class__ = _Train


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("truing")
    if name not in _HOMES:
        raise AttributeError(f"module 'truing' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
