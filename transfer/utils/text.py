"""Text of users, files and servers, made harmless for the place where it is shown."""

import re

_MARKDOWN = r"[\\`*\[\]<>&|#~]|(?<!\w)_|_(?!\w)"


def printable(text: str) -> str:
    """``text`` with everything but letters, signs, blanks and ends of lines as an escape such as \\x1b.

    For the terminal: control characters could move the cursor or forge lines, and half characters of file names
    (surrogates) cannot be printed.
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def public(uri: str) -> str:
    """The address of a store without its password; a folder stays."""
    from sqlalchemy.engine import make_url

    return make_url(uri).render_as_string(hide_password=True) if "://" in uri else uri


def in_markdown(text: str) -> str:
    """Markdown, on one line, that shows ``text`` as it is; nothing in it becomes markup or HTML."""
    return re.sub(f"({_MARKDOWN})", r"\\\1", printable(" ".join(text.split())))


def from_markdown(text: str) -> str:
    """The text of `in_markdown` again."""
    return re.sub(r"\\([\\`*\[\]<>&|#~_])", r"\1", text)


def in_rst(text: str) -> str:
    """The same for the reStructuredText of Snakemake's report."""
    return re.sub(r"([^\w\s])", r"\\\1", printable(" ".join(text.split())))
