"""Ranks of cells: what the script of a page sorts by."""

from flamingo.report.table import NO_VALUE, SHORT, Cell, Column, Row, Table


def ranks(kind, *cells):
    table = Table("", (Column("one", kind),), tuple(Row((cell,)) for cell in cells))
    return [rank for [rank] in table.ranks()]


def test_numbers_are_ranked_by_value_and_not_by_text():
    cells = [Cell("10.5", value=10.5), Cell("9.25", value=9.25), Cell("-3", value=-3.0), Cell("9.25", value=9.25)]
    assert ranks("number", *cells) == [2, 1, 0, 1]


def test_a_cell_without_a_value_has_no_rank():
    assert ranks("number", Cell(NO_VALUE), Cell("0.000", value=0.0), Cell("n/a")) == [None, 0, None]
    assert ranks(SHORT, Cell(""), Cell("blind"), Cell(NO_VALUE)) == [None, 0, None]


def test_texts_are_ranked_without_case_and_by_their_numbers():
    names = ["16 shots", "8 shots", "Blind", "beam3", "blind", "32 shots", "beam10"]
    assert ranks(SHORT, *map(Cell, names)) == [1, 0, 5, 3, 5, 2, 4]


def test_each_column_has_its_own_ranks():
    columns = (Column("name", SHORT), Column("score"))
    rows = (Row((Cell("b"), Cell("1", value=1))), Row((Cell("a"), Cell("2", value=2))))
    assert Table("", columns, rows).ranks() == [[1, 0], [0, 1]]


def test_more_than_eight_rows_have_a_filter():
    rows = tuple(Row((Cell(str(number)),)) for number in range(9))
    assert Table("", (Column("n"),), rows).has_filter
    assert not Table("", (Column("n"),), rows[:8]).has_filter


def test_a_cell_is_its_text_with_its_interval():
    assert [str(Cell("0.5")), str(Cell("0.5", "0.4 to 0.6"))] == ["0.5", "0.5 (0.4 to 0.6)"]
