"""Weights of the starts of windows, computed by hand on a page of 40 tokens."""

import numpy as np

from flamingo.data.pages.window_starts import PageTokens, has_text_after_image, num_images_from, start_weights


def page_tokens(*image_starts, tokens_per_image=1, has_bos=False):
    is_text = np.ones(40, dtype=bool)
    for start in image_starts:
        is_text[start : start + tokens_per_image] = False
    return PageTokens(np.array(image_starts), is_text, tokens_per_image, has_bos)


def test_the_12_tokens_before_an_image_weigh_2_more():
    weights = start_weights(page_tokens(5, 20), length=16, min_tokens=5, before_images=True)
    assert weights.tolist() == 5 * [3] + [0] + 2 * [1] + 12 * [3] + [0] + 14 * [1] + 5 * [0]
    probabilities = weights / weights.sum()
    assert probabilities[0] == 3 / 67 and probabilities[6] == 1 / 67


def test_bonuses_of_several_images_add_up():
    weights = start_weights(page_tokens(13, 15), length=16, min_tokens=1, before_images=True)
    assert weights.tolist() == [1, 3, 3] + 10 * [5] + [0, 3, 0] + 23 * [1] + [0]


def test_the_whole_image_fits_behind_a_start_with_a_bonus():
    weights = start_weights(page_tokens(20, tokens_per_image=3), length=16, min_tokens=1, before_images=True)
    assert weights.tolist() == 10 * [1] + 10 * [3] + 3 * [0] + 16 * [1] + [0]


def test_uniform_starts_weigh_1_except_on_images():
    weights = start_weights(page_tokens(0, 20), length=16, min_tokens=5, before_images=False)
    assert weights.tolist() == 20 * [1] + [0] + 14 * [1] + 5 * [0]  # a page may begin with an image


def test_a_window_ends_before_an_image_that_it_would_cut():
    stops = page_tokens(20, tokens_per_image=3).stops(16)
    assert stops[[0, 4, 5, 6, 7, 30]].tolist() == [16, 20, 20, 20, 23, 40]


def test_bos_takes_a_place_in_later_windows():
    assert page_tokens(39, has_bos=True).stops(16)[:3].tolist() == [16, 16, 17]
    assert page_tokens(39).stops(16)[:3].tolist() == [16, 17, 18]


def test_images_of_windows_are_counted_with_the_text_after_them():
    tokens = page_tokens(5, 20)
    images = num_images_from(tokens, 16)
    assert images[[0, 5, 6, 20, 21]].tolist() == [1, 2, 1, 1, 0]
    text_after = has_text_after_image(tokens, 16)
    # The last token of the window from 5 is the second image; from 4 and 5 on there is text after the first one.
    assert np.flatnonzero(text_after).tolist() == [*range(21)][:5] + [5, *range(6, 21)]


def test_an_image_at_the_end_of_a_window_has_no_text():
    assert not has_text_after_image(page_tokens(15), 16)[0]
    assert has_text_after_image(page_tokens(14), 16)[0]
