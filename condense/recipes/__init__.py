"""Published settings by name: a YAML file for each method and data set, with what was published as its result.

>>> load("cda-tiny-imagenet").ipcs
(1, 10, 50, 100)
"""

from condense.recipes.reading import Expected, Recipe, at_ipc, load, names

__all__ = ["Expected", "Recipe", "at_ipc", "load", "names"]
