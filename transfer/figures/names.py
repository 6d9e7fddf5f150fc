"""What figures call the recipes."""

_NAMES = {
    "local_cnns": "+ Local CNNs",
    "local_cnns_mad": "+ MAD",
    "msad": "MSAD alone",
    "local_cnns_msad": "Local CNNs, MSAD",
}


def recipe_name(recipe: str) -> str:
    """The paper's name of a recipe of Table 1, as the columns of its figure; of others their own."""
    return _NAMES.get(recipe, recipe.replace("_", " "))
