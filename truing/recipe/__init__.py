"""Recipes: TOML and overrides become a checked `Recipe`, before anything heavy is imported.

    recipe = load_recipe("recipes/quickstart.toml", ["stages.grpo.steps=10"])
    print(resolved(recipe))

Everything that is wrong is reported at once, each with file, line, key and what would be right.
"""

from truing.recipe.build import load_recipe, recipe_from_dict
from truing.recipe.write import resolved

__all__ = ["load_recipe", "recipe_from_dict", "resolved"]
