"""A table as a page of its own, for Snakemake's report and for any browser: nothing is loaded from elsewhere."""

import html

from markdown_it import MarkdownIt

_STYLE = """
body { font: 14px/1.5 sans-serif; margin: 1.5em; color: #222; background: #fff; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: 0.2em 0.7em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #444; }
"""


def to_html(title: str, markdown: str) -> str:
    """A whole page from the table's markdown."""
    body = MarkdownIt("commonmark").enable("table").render(markdown)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}</body></html>\n'
