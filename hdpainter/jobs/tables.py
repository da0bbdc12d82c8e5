"""CSV files as people, spreadsheets and libraries write them."""

import csv
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from hdpainter.values import check_keys
from ldm.util import UserError

_BLANK = re.compile(r"(?:[ \t]*(?:\r\n|\r|\n))*")
_UNNAMED = re.compile(r"Unnamed: \d+")  # what pandas calls a column without a name that it has read
_ROW_NUMBER = re.compile(r"\d+(\.0)?")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


@dataclass(frozen=True)
class Row:
    """A line of a table. cells: by the name of their column; None where `problem` says what is wrong with it."""

    line: int
    cells: dict[str, str] | None
    problem: str = ""


def read_table(text: str, name: str, known: Collection[str]) -> list[Row]:
    """The rows of a table whose first line names columns, of which there are `known` ones.

    Cells are divided by commas, semicolons or tabs: by what makes known columns of the first line, or what a line
    ``sep=;`` before it says. Spaces around cells are none of them where the first line has such, or each cell but
    the first of a line begins with one. Columns without a name are left out if they are empty, or the row numbers
    that data frames are written with. Lines may end as on any system, blank ones do not count.
    Raises UserError, which begins with `name`, for another table.
    """
    blank = _BLANK.match(text)
    assert blank
    text, first = text[blank.end() :], 1 + _lines(blank[0])
    if mark := re.match(r'"?sep=(.)"?[,;\t]*(\r\n|\r|\n)', text, re.IGNORECASE):
        text, delimiter = text[mark.end() :], mark[1]
    else:
        delimiter = _delimiter(text, known)
    first += mark is not None
    (_, columns), *rows = [*_records(text, delimiter, name, first, strip=False)] or [(first, [])]
    if any(column != column.strip() for column in columns) or _spaced([cells for _, cells in rows]):
        (_, columns), *rows = _records(text, delimiter, name, first, strip=True)
    where = f"{name}, line {first}"
    columns = ["" if _UNNAMED.fullmatch(column) else column for column in columns]
    rows = [(line, _without_empty_end(cells, len(columns))) for line, cells in rows]
    whole = [cells for _, cells in rows if len(cells) == len(columns)]
    kept = [place for place in range(len(columns)) if not _is_filler(columns, place, whole)]
    named = [columns[place] for place in kept]
    if "" in named:
        raise UserError(
            f"{where}: column {kept[named.index('')] + 1} has no name: give it one, or take it out"
        )
    check_keys(named, known, where)
    if len(set(named)) < len(named):
        raise UserError(f"{where}: a column stands twice")
    divider = DELIMITERS.get(delimiter, repr(delimiter))
    return [
        Row(line, {columns[place]: cells[place] for place in kept})
        if len(cells) == len(columns)
        else Row(
            line,
            None,
            f"{len(cells)} cells under {len(columns)} columns; put text with {divider} in double quotes",
        )
        for line, cells in rows
        if any(cells)
    ]


def _lines(text: str) -> int:
    return len(re.findall(r"\r\n|\r|\n", text))


def _spaced(rows: list[list[str]]) -> bool:
    """Whether there is a space after every delimiter."""
    later = [cell for row in rows for cell in row[1:]]
    return bool(later) and all(cell.startswith(" ") for cell in later)


def _without_empty_end(cells: list[str], count: int) -> list[str]:
    """The cells of a row, without empty ones at its end for which there is no column."""
    return cells[:count] if not any(cells[count:]) else cells


def _delimiter(text: str, known: Collection[str]) -> str:
    head = re.split(r"[\r\n]", text, maxsplit=1)[0]

    def count(delimiter: str) -> int:
        return sum(cell.strip(' "') in known for cell in head.split(delimiter))

    return max(DELIMITERS, key=count)  # the first of equal ones


def _records(
    text: str, delimiter: str, name: str, first: int, strip: bool
) -> Iterator[tuple[int, list[str]]]:
    """(its last line, its cells) of each record."""
    source = io.StringIO(text, newline="")
    reader = csv.reader(source, delimiter=delimiter, skipinitialspace=strip, strict=True)
    try:
        for cells in reader:
            yield reader.line_num + first - 1, [cell.strip() for cell in cells] if strip else cells
    except csv.Error as error:
        line = reader.line_num + first - 1
        raise UserError(f"{name}, line {line} is not valid CSV: {error}") from None


def _is_filler(columns: list[str], place: int, rows: list[list[str]]) -> bool:
    """Whether a column has no name and nothing to say: it is empty, or the first and numbers the rows."""
    if columns[place]:
        return False
    cells = [row[place] for row in rows]
    return not any(cells) or (place == 0 and all(_ROW_NUMBER.fullmatch(cell) for cell in cells))
