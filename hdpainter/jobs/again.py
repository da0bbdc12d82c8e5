"""Making a result again: ``hdpainter inpaint --from result.png``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdpainter.jobs.results import differences
from hdpainter.records import read_record, settings_of
from ldm.util import UserError


@dataclass(frozen=True)
class Again:
    """A result as it says that it was made. values: the keys of its job. model: the name of its model. inputs:
    all that determines its picture, as in `Task.inputs`."""

    path: Path
    values: dict[str, Any]
    model: str | None
    inputs: Mapping[str, Any]

    def compared(self, inputs: Mapping[str, Any]) -> str:
        """What differs in what is made now, in words."""
        found = differences(self.inputs, inputs)
        return f"differs from {self.path}: {found}" if found else f"all is as {self.path} was made"


def again(path: Path) -> Again:
    """Read a result by its picture or its .json; image and mask lie where they lay, as seen from there.

    Raises UserError for what is no result of ``hdpainter inpaint``, ``batch`` or the page.
    """
    record = read_record(path)
    inputs, files, metadata = (record.get(key) for key in ("inputs", "files", "metadata"))
    if not (isinstance(inputs, dict) and isinstance(files, dict) and isinstance(metadata, dict)):
        raise UserError(
            f"{path} says with which settings it was made but not of which picture: give --method {path}"
        )
    values = {
        key: str(path.parent / files[key]) for key in ("image", "mask") if isinstance(files.get(key), str)
    }
    values |= {key: inputs[key] for key in ("prompt", "seed", "size", "superres") if key in inputs}
    beside = path if path.suffix in (".png", ".json") else path.with_suffix(".json")
    models = metadata.get("models")
    model = models.get("model") if isinstance(models, dict) else None
    return Again(path, {**values, "method": str(beside.absolute())}, model, settings_of(record))
