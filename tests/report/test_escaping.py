"""Names of users mean nothing to Markdown, HTML and spreadsheets, and plain names stay unchanged."""

import pytest
from markdown_it import MarkdownIt

from flamingo.report.escaping import code, code_block, csv_cell, markdown, row

EVIL = [
    *("a|b", "`a`", "``a", "a\nb | c", "<script>alert(1)</script>", "<b>&amp;", "*a*", "**a**", "_a_", "__a__"),
    *("[a](http://b)", "![a](b)", "~~a~~", "a\\|b", "\\", "| --- |", "http_a_b", "a_b_c", "1e-05", "=1+1"),
]


def texts(tokens):
    """The plain text, and the kinds of all that is not."""
    inside = [child for token in tokens for child in (token.children or [])]
    return "".join(child.content for child in inside), {child.type for child in inside} - {"text"}


@pytest.mark.parametrize("text", EVIL)
def test_a_text_is_shown_as_it_is_in_a_line_and_in_a_cell(text):
    shown = " ".join(text.split())
    reader = MarkdownIt("gfm-like", {"linkify": False})
    assert texts(reader.parse(f"Names {markdown(text)} here")) == (f"Names {shown} here", set())
    table = reader.parse("\n".join([row(["x", "y"]), "|---|---|", row([text, 3])]))
    cells = [texts([token]) for token in table if token.type == "inline"]
    assert cells == [("x", set()), ("y", set()), (shown, set()), ("3", set())]


@pytest.mark.parametrize("text", [*EVIL, "`", "", "a``b`"])
def test_code_shows_what_it_holds_whatever_backticks_that_has(text):
    tokens = MarkdownIt().parse(f"- {code(text)}: why")
    [span] = [child for token in tokens for child in (token.children or []) if child.type == "code_inline"]
    assert span.content.strip() == " ".join(text.split())
    block = f"one\n{text}\n```\n  ~~~~\nend"
    [fence] = MarkdownIt().parse(code_block(block, "yaml"))
    assert (fence.type, fence.info, fence.content) == ("fence", "yaml", block + "\n")


def test_plain_names_stay_as_they_are_written():
    for text in (
        "no tanh gate",
        "model.fusion.every=2, model.connector.kind=mlp",
        "synthetic_captions",
        "-3.0 (-6 to 0)",
    ):
        assert markdown(text) == text
    assert markdown(markdown("a|b")) == markdown("a|b") == "a\\|b"


def test_no_cell_is_a_formula_and_numbers_stay_numbers():
    for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://a")'):
        assert csv_cell(text) == f"'{text}"
    for value in ("a=1", "1+1", "", -1, -0.5, None, 3):
        assert csv_cell(value) is value
