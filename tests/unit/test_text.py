"""Text of users, files and servers where it is shown: pages, Markdown, LaTeX, Snakemake's report, the terminal."""

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from transfer.audit.report import to_markdown as audit_markdown
from transfer.tables.text import Section, Table, to_html, to_latex, to_markdown
from transfer.utils.errors import UserError
from transfer.utils.text import from_markdown, in_markdown, in_rst, printable

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt; & <b>",
    "[a link](javascript:alert(1)) ![x](http://example.org/x.png) <http://example.org>",
    "# heading\n\n<div>\n\n| a | b |\n\n```\n",
    "**bold** `code` _slanted_ snake_case ~~gone~~ \\",
    ".. raw:: html\n\n   <script>",
    "`x <javascript:alert(1)>`_ |x| :raw:`y`",
    "\\input{/etc/passwd} $x^2$ % } { #1 ~",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_it_as_it_is(text):
    written = in_markdown(text)
    inline = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parseInline(written)[0]
    assert {token.type for token in inline.children} <= {"text"}
    assert inline.children[0].content == " ".join(text.split()) == from_markdown(written)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_page_holds_it_as_markup(text):
    written = in_markdown(text)
    section = Section(written, written, ["method", "accuracy"], [[written, "1.00"]])
    table = Table(written, pd.DataFrame(), {}, [written], [section])
    page = to_html(table.title, to_markdown(table))
    for mark in ("<script", "<img", "<b>", "<div", "<a ", "<code", "<strong", "<em"):
        assert mark not in page, mark
    latex = to_latex(table).partition("\n")[2]  # the first line is a comment
    assert "\\input{" not in latex and " $x" not in latex
    assert "<script" not in to_html("t", text), "nor where a text was not escaped at its source"


def test_the_audit_escapes_what_is_said_about_a_dataset():
    counts = dict.fromkeys(("images", "repeated", "contradictory", "drop_exact", "drop_near", "broken"), 0)
    columns = ["dataset_a", "dataset_b", "split_a", "split_b", "exact", "near", "mirrored"]
    environment = {"commit": "<i>", "python": "3", "system": "<b>"}
    text = audit_markdown("x", pd.DataFrame(columns=columns), {"d": {"about": "<script>", **counts}}, environment)
    assert "\\<script\\>" in text and "\\<i\\>" in text and "\\<b\\>" in text


@pytest.mark.parametrize("text", HOSTILE)
def test_restructuredtext_shows_it_as_it_is(text):
    core = pytest.importorskip("docutils.core")
    page = core.publish_doctree(in_rst(text), settings_overrides={"report_level": 5})
    assert page.astext() == " ".join(text.split())
    assert {node.tagname for node in page.findall()} <= {"document", "paragraph", "#text"}


def test_control_characters_never_reach_the_terminal(transfer, tmp_path):
    name = "a\x1b[31m\x07\r\u202e\x9b2J\udce9.jpg"
    assert printable(name) == r"a\x1b[31m\x07\r\u202e\x9b2J\udce9.jpg"
    assert printable("é 你 ±\n") == "é 你 ±\n"
    error = UserError(f"{name}: broken", details=name)
    assert str(error).isprintable() and error.details.isprintable()
    code, out, err = transfer("params", "--params", str(tmp_path / "x\x1b]0;title\x07.yaml"))
    assert code == 1 and err.startswith("error: ") and err.rstrip("\n").isprintable() and not out
    code, out, err = transfer("params", "--set", "experiment=\x1b[2J")
    assert code == 1 and err.rstrip("\n").isprintable()
    code, out, err = transfer("no\x1b[2Jverb")
    assert code == 1 and err.rstrip("\n").isprintable()
