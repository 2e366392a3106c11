"""Progress bars, shown and hidden."""

import pytest

from flamingo.utils.progress import progress_bar


def shown(capsys, **options):
    with progress_bar(total=4, unit=" images", **options) as bar:
        bar.update(2)
    return capsys.readouterr().err


def test_a_bar_shows_what_is_done_of_the_total(capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    line = shown(capsys, initial=1, description="features")
    assert line.startswith("\rfeatures:") and "3/4" in line and "images/s" in line


@pytest.mark.parametrize("value", ["", "0"])
def test_an_empty_variable_or_zero_hides_no_bar(value, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", value)
    assert "2/4" in shown(capsys)


def test_the_environment_variable_of_tqdm_hides_bars(capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert shown(capsys) == ""


def test_a_process_that_is_not_the_main_one_shows_no_bar(capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    assert shown(capsys, visible=False) == ""
