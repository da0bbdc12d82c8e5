"""CSV files with a header: read with errors that name them, written whole or not at all."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hdpainter.files import make_folder, replacing
from ldm.util import UserError, cut


def read_rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header. Raises UserError if it cannot be read or lacks a column."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write a mark
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            rows = list(reader)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file: {error}") from None
    if missing := [name for name in needed if name not in columns]:
        found = cut(" ".join(", ".join(columns).split()), 200)
        raise UserError(f"{path} has no column {missing[0]!r}; it has {found or 'none'}")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(f"{path} line {number} does not have {len(columns)} values")
    return rows


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write mappings as a CSV file with these columns; its folder is made. Raises CannotWrite."""
    make_folder(path.parent)
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
