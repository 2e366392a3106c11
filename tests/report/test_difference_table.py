"""Tables of differences: what is compared, the interval, and notes for the reader."""

from dataclasses import replace

from flamingo.report.difference_table import by_task, difference_table, difference_tables, note, table_title
from flamingo.results import SettingOfTask
from tests.helpers.differences import difference, setting


def test_a_row_names_what_is_compared_with_interval_and_mark():
    rices = SettingOfTask("t", 8, "rices", None, None, None, "beam3")
    rows = [
        difference(),
        difference(
            kind="control",
            subtracted=setting(control="shuffled_images"),
            over_seeds=(-0.001, 0.3),
            level="draws of demonstrations",
            adjusted_p=0.0456,
            mark="undecided",
        ),
        difference(kind="slope", setting=rices, subtracted=None, shots=(1, 4, 8), mark=None, adjusted_p=None),
        difference(kind="icl_efficiency", subtracted=None, shots=(0, 4), mark=None, adjusted_p=None, bca=None),
        difference(kind="own_support", setting=replace(setting(), support="coco"), subtracted=setting()),
        difference(kind="baseline", variant="prefix", baseline="cross", seeds=(0,), adjusted_p=1e-9),
    ]
    cells = [line.split("  ") for line in difference_table(rows).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in cells]
    minus = "\N{MINUS SIGN}"
    assert cells[1:] == [
        [f"4 shots {minus} 0 shots", "+0.100", "0.020 to 0.210", "0.020", "real", "queries alone", "50", "0, 1"],
        [
            f"4 shots {minus} 4 shots, shuffled images",
            *("+0.100", "-0.001 to 0.300", "0.046", "undecided", "queries, draws of demonstrations", "50", "0, 1"),
        ],
        [
            "slope per doubling, 1 to 8 shots, RICES, beam3",
            *("+0.100", "0.020 to 0.210", "-", "-", "queries alone", "50", "0, 1"),
        ],
        ["ICL efficiency, 0 to 4 shots", "+0.100", "-", "-", "-", "queries alone", "50", "0, 1"],
        [
            f"4 shots, support coco {minus} 4 shots",
            *("+0.100", "0.020 to 0.210", "0.020", "real", "queries alone", "50", "0, 1"),
        ],
        [
            f"prefix {minus} cross at 4 shots",
            *("+0.100", "0.020 to 0.210", "< 0.001", "real", "queries alone", "50", "0"),
        ],
    ]


def test_a_page_has_a_table_for_each_task():
    tables = difference_tables(
        [difference("one"), difference("two", metric="exact_match"), difference("one", value=0.2)]
    )
    assert [table.title for table in tables] == ["one: CIDEr", "two: exact match"]
    assert [row.cells[1].text for row in tables[0].rows] == ["+0.100", "+0.200"]
    assert "within ±0.01." in tables[0].note


def test_the_note_says_what_is_adjusted_and_prints_the_margin():
    text = note([difference(margin=0.02)])
    assert "BCa" in text and "not adjusted" in text and "Holm" in text and "±0.02" in text
    assert "fewer than 30 queries" in text


def test_differences_are_sorted_by_task():
    rows = [difference("one"), difference("two"), difference("one", value=0.2)]
    assert [[row.setting.task for row in task] for task in by_task(rows)] == [["one", "one"], ["two"]]
    assert table_title(rows[1:]) == "two: CIDEr"


def test_rows_are_sorted_by_their_numbers_and_empty_cells_last():
    """The text of a p is not a number, and an interval has two."""
    rows = [
        difference(value=0.1, bca=(0.02, 0.21), adjusted_p=0.02, seeds=(0, 1)),
        difference(value=-0.3, bca=None, adjusted_p=None, mark="undecided", seeds=(10,)),
        difference(value=-0.2, bca=(-1.0, 0.1), adjusted_p=1e-9, seeds=(2,)),
    ]
    [table] = difference_tables(rows)
    ranks = dict(zip([column.name for column in table.columns], zip(*table.ranks(), strict=True), strict=True))
    assert ranks["difference"] == (2, 0, 1)
    assert ranks["95% interval"] == (1, None, 0)
    assert ranks["adjusted p"] == (1, None, 0)
    assert ranks["mark"] == (0, 1, 0)
    assert ranks["seeds"] == (0, 2, 1)
