"""Letters that no installed font has are one warning in the log; other warnings are passed on."""

import logging
import warnings

import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from flamingo.report import fonts
from flamingo.report.fonts import font_families, missing_letters_logged
from flamingo.report.style import png, style, svg


@pytest.mark.parametrize("save", [png, svg])
def test_letters_without_a_font_are_one_warning(caplog, monkeypatch, save):
    monkeypatch.setattr("flamingo.report.style.font_families", lambda: ["DejaVu Sans"])
    with style():
        figure = Figure(figsize=(1, 1))
        figure.text(0, 0, "a \u660e\u4eae \u660e")
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        save(figure)
    assert {record.name for record in caplog.records} == {"flamingo.report.fonts"}
    [message] = {record.getMessage() for record in caplog.records}
    assert " 2 letters" in message and "\u660e\u4eae" in message


def test_other_warnings_are_passed_on(caplog):
    with pytest.warns(UserWarning, match="another matter"), missing_letters_logged():
        warnings.warn("another matter", stacklevel=1)
    assert caplog.records == []


def test_installed_families_follow_that_of_all_plots(monkeypatch):
    monkeypatch.setattr(fontManager, "get_font_names", lambda: ["Arial Unicode MS", "Comic Sans", "Noto Sans CJK SC"])
    fonts.font_families.cache_clear()
    try:
        assert font_families() == ["DejaVu Sans", "Noto Sans CJK SC", "Arial Unicode MS"]
    finally:
        fonts.font_families.cache_clear()
