"""Scores as texts: the scorers' units, three decimals."""

from flamingo.report.score_text import difference_text, interval_text, score_text


def test_scores_differences_and_intervals():
    assert (score_text(0.4661), score_text(9.8567)) == ("0.466", "9.857")
    assert (difference_text(0.0123), difference_text(-0.5), difference_text(None)) == ("+0.012", "-0.500", "")
    assert (score_text(-0.0003), difference_text(-0.0003), interval_text((-0.0004, 0.0))) == (
        "0.000",
        "+0.000",
        "0.000 to 0.000",
    )
    assert (interval_text((0.4324, 0.5026)), interval_text(None)) == ("0.432 to 0.503", "")
