"""The quoted figures are the paper's."""

import pytest

from eval.published import TABLES

PAPER = {
    "table1": [
        (24.92, 44.0, 62.7),
        (24.07, 31.8, 67.5),
        (24.81, 49.8, 56.3),
        (24.86, 51.9, 54.3),
        (26.34, 61.4, 50.0),
    ],
    "table2": [(24.86, 51.9, None), (25.24, 52.2, None), (25.85, 62.0, None), (26.34, 61.4, None)],
}


@pytest.mark.parametrize("name", PAPER)
def test_figures(name):
    assert [(row.clip, row.accuracy, row.preference) for row in TABLES[name].rows] == PAPER[name]
    assert TABLES[name].source.endswith(f"Table {name[-1]}")


def test_both_tables_agree_where_they_overlap():
    first, second = (TABLES[name].rows for name in ("table1", "table2"))
    for a, b in ((first[3], second[0]), (first[4], second[3])):
        assert (a.clip, a.accuracy) == (b.clip, b.accuracy)
