"""What a result says of itself: how it was made, from the text in its PNG or the JSON beside it."""

import json
from pathlib import Path
from typing import Any

from hdpainter.images import read_metadata
from ldm.util import UserError, refuse_device

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # of results


def read_record(path: str | Path) -> dict[str, Any]:
    """The record of a result, given by its picture or by the .json beside it.

    That of ``hdpainter inpaint``, ``batch`` and the page has `inputs`, `files` and `metadata`; a picture saved in
    Python the metadata alone. Raises UserError where there is none.
    """
    path = Path(path)
    refuse_device(path)
    if not path.is_file():
        raise UserError(f"result {path} is not there: give the path of a picture that was made here")
    found = read_metadata(path) if path.suffix.lower() == ".png" else None
    if found is None:
        try:
            found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            found = None
    if not isinstance(found, dict) or not isinstance(settings_of(found).get("method"), dict):
        raise UserError(
            f"{path} does not say how it was made: it is no result of this program, or was edited"
        )
    return found


def settings_of(record: dict[str, Any]) -> dict[str, Any]:
    """Of a record, what determines the picture: prompt, seed, method and more."""
    inputs = record.get("inputs", record)
    return inputs if isinstance(inputs, dict) else {}
