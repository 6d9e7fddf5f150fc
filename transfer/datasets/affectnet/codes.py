"""AffectNet's expression codes, and what its three releases have in common."""

from transfer.utils.errors import UserError

CLASSES = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"]
"""Codes 0 to 7."""
NOT_EXPRESSIONS = {8: "none", 9: "uncertain", 10: "no_face"}


def expression(text: str, where: str) -> int:
    """The code that ``text`` holds; UserError, beginning with ``where``, if it is none."""
    allowed = len(CLASSES) + len(NOT_EXPRESSIONS)
    if not text.isdecimal() or int(text) >= allowed:
        raise UserError(f"{where}: expression is {text!r}; expected a whole number from 0 to {allowed - 1}")
    return int(text)


def name_of(code: int) -> str:
    """The class or category that a code stands for."""
    return NOT_EXPRESSIONS.get(code) or CLASSES[code]
