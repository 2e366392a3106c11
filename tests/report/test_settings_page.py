"""Several models setting by setting: scores side by side, paired differences, curves and a page."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from flamingo.measure_rows import save_measures
from flamingo.report.copying_tables import copying_table
from flamingo.report.model_curves import model_curves
from flamingo.report.settings_page import settings_page
from flamingo.report.settings_tables import model_scores, settings_table, task_metrics
from flamingo.report.style import BLUE, VERMILION
from flamingo.report.variants import EvaluatedRun, Variant
from flamingo.results import score_of
from tests.helpers.differences import difference
from tests.helpers.measures import measure
from tests.report.fake import score
from tests.report.test_page import Page


def run(*rows):
    means = tuple(score_of(row, "a test") for row in rows)
    return EvaluatedRun(Path("folder"), {}, (), 0, {}, means)


@pytest.fixture
def variants():
    """One of two trainings, and one that lacks a setting."""
    rows = [score(shots=0, demonstrations=None, value=0.1, ci95=None), score(value=0.3, ci95=(0.2, 0.4))]
    other = [score(value=0.5, ci95=(0.4, 0.8)), score(metric="CIDEr", value=1.5)]
    blind = score(control="blind", value=0.05)
    one = Variant("one", (run(*rows, blind), run(*other, blind)), None)
    return [one, Variant("<two>", (run(score(value=0.6), score(demonstrations="rices", value=0.7), blind),), None)]


@pytest.fixture
def differences(variants):
    plain = variants[0].runs[0].means[1].setting
    changes = {"kind": "baseline", "variant": "<two>", "baseline": "one", "metric": "exact_match", "value": 0.2}
    row = difference(setting=plain, bca=(0.1, 0.3), mark="real", **changes)
    control = replace(row, setting=replace(plain, control="blind"), value=0.0, bca=None, mark="undecided")
    return [row, control, replace(row, setting=replace(plain, task="other"))]


def texts(table):
    return [[str(cell) for cell in row.cells] for row in table.rows]


def test_a_setting_is_a_row_and_a_model_a_column(variants, differences):
    """Values and interval ends of two trainings are averaged: 0.3 and 0.5."""
    models = model_scores(variants)
    table = settings_table(models, "synthetic_captions", "exact_match", differences)
    assert [column.name for column in table.columns[4:]] == ["one", "<two>", "difference"]
    dash = "\N{EN DASH}"
    assert texts(table) == [
        ["0", "none", "", "greedy", "0.100", dash, dash],
        [
            "4",
            "random",
            "",
            "greedy",
            "0.400 (0.300 to 0.600)",
            "0.600 (0.400 to 0.600)",
            "+0.200 real (0.100 to 0.300)",
        ],
        ["4", "RICES", "", "greedy", dash, "0.700 (0.400 to 0.600)", dash],
        ["4", "random", "blind", "greedy", *["0.050 (0.400 to 0.600)"] * 2, "+0.000 undecided"],
    ]
    assert [row.is_control for row in table.rows] == [False, False, False, True]
    assert [ranks[6] for ranks in table.ranks()] == [None, 1, None, 0]


def test_a_metric_without_differences_has_no_column_for_them(variants, differences):
    models = model_scores(variants)
    assert task_metrics(models, differences, "synthetic_captions") == ["exact_match", "CIDEr"]
    table = settings_table(models, "synthetic_captions", "CIDEr", differences)
    assert [column.name for column in table.columns[4:]] == ["one", "<two>"]
    assert [row[4] for row in texts(table)] == ["1.500 (0.400 to 0.600)"]


def test_more_than_five_models_are_rows(variants, differences):
    many = [replace(variants[1], name=f"model {number}") for number in range(4)]
    table = settings_table(model_scores([*variants, *many]), "synthetic_captions", "exact_match", differences)
    assert [column.name for column in table.columns[4:]] == ["model", "exact match", "difference"]
    of_random = [row[4:] for row in texts(table) if row[:3] == ["4", "random", ""]]
    assert [row[0] for row in of_random] == ["one", "<two>", *(f"model {number}" for number in range(4))]
    assert [row[2] for row in of_random[:3]] == ["\N{EN DASH}", "+0.200 real (0.100 to 0.300)", "\N{EN DASH}"]
    assert len(table.rows) == 1 + 6 + 5 + 6


def test_curves_have_a_line_for_each_model_and_selection(variants):
    exact, cider = model_curves(model_scores(variants), "synthetic_captions").axes
    drawn = {
        (to_hex(line.get_color()), line.get_linestyle()): line.get_xydata()
        for line in exact.lines
        if line.get_marker() != "None"
    }
    assert drawn.keys() == {(BLUE, "-"), (VERMILION, "-"), (VERMILION, "--")}
    np.testing.assert_allclose(drawn[BLUE, "-"], [[0, 0.1], [1, 0.4]])
    np.testing.assert_allclose(drawn[VERMILION, "--"], [[1, 0.7]])
    assert {text.get_text() for text in exact.texts} == {"one", "<two>", "<two>, RICES"}
    assert exact.get_title("left") == "exact match" and cider.get_title("left") == "CIDEr"


def test_each_similarity_of_rices_has_its_line():
    names = ["random", "rices", "rices_question", "rices_caption", "rices_sum"]
    scores = [score(demonstrations=name, value=0.1 * number) for number, name in enumerate(names)]
    [ax] = model_curves(model_scores([Variant("one", (run(*scores),), None)]), "synthetic_captions").axes
    lines = [line for line in ax.lines if line.get_marker() != "None"]
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == len(names)
    assert {f"one, RICES by {name}" for name in ("question", "caption", "sum")} < {text.get_text() for text in ax.texts}


def test_copy_rates_have_a_row_for_each_setting_and_distance():
    """Those of two trainings are averaged. The ROUGE-L part and other measures are left out."""
    rows = [measure(value=0.2), measure(value=0.4), measure(distance=2, value=0.1, ci95=None)]
    rows += [measure(part="ROUGE-L"), measure(name="reference_rate"), measure("other")]
    table = copying_table({"one": rows, "two": [measure(control="blind", value=0.9)]}, "t")
    assert [column.name for column in table.columns[4:]] == ["distance", "one", "two"]
    assert [row[2:3] + row[4:] for row in texts(table)] == [
        ["", "1", "0.300 (0.100 to 0.400)", "\N{EN DASH}"],
        ["", "2", "0.100", "\N{EN DASH}"],
        ["blind", "1", "\N{EN DASH}", "0.900 (0.100 to 0.400)"],
    ]


def test_the_page_reads_the_copy_rates_of_each_run(variants, tmp_path):
    save_measures(tmp_path / "in_context.json", [measure("synthetic_captions", value=0.25)])
    one = replace(variants[0], runs=(replace(variants[0].runs[0], folder=tmp_path),))
    page = Page(settings_page([one, variants[1]], {}, []))
    assert page.of("summary") == ["Copy rates"] and "0.250" in page.of("td")


def test_the_page_has_each_task_and_each_family_of_differences(variants, differences):
    page = Page(settings_page(variants, {"<lost>": "not evaluated"}, differences[:2]))
    assert page.of("h1") == ["2 models, setting by setting"]
    assert page.of("h2") == ["synthetic_captions", "Paired differences to one", "Failed, missing and incomplete"]
    titles = ["exact match", "CIDEr", "synthetic_captions: exact match", "synthetic_captions: exact match, controls"]
    assert page.of("h3") == titles
    assert page.of("summary") == ["1 other metric"] and page.of("dt") == ["<lost>"]
    assert "<two>" in page.of("th") and not {"two", "lost"} & {tag for tag, _ in page.tags}
    links = [attrs["src"] for _, attrs in page.tags if "src" in attrs]
    assert len(links) == 1 and links[0].startswith("data:image/svg")
