"""Codes of languages and their scripts."""

import pytest

from flamingo.utils.errors import UserError
from flamingo.utils.languages import check_language, primary_language, scripts_of


@pytest.mark.parametrize("code", ["en", "zh", "zh-Hans", "pt-BR", "yue", "sr-Cyrl-RS"])
def test_codes_of_languages_are_taken(code):
    check_language("language", code)


@pytest.mark.parametrize("code", ["", "English", "EN", "e", "en_GB", "en-", 3, None])
def test_what_is_no_code_is_refused_by_key(code):
    with pytest.raises(UserError, match=r"^language "):
        check_language("language", code)


def test_the_script_is_that_of_the_language_whatever_its_region():
    assert scripts_of("zh-Hans") == scripts_of("zh") and "Han" in scripts_of("zh")
    assert scripts_of("sw") == ("Latin",)
    assert primary_language("pt-BR") == "pt"
