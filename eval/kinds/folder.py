"""Results made elsewhere."""

import dataclasses
import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from eval.kinds.base import Input, Kind, resized
from eval.runs import Run, Sample
from hdpainter.blend import blend
from hdpainter.images import load_image
from ldm.util import UserError, shown


@dataclass(frozen=True)
class Folder(Kind):
    """Results made elsewhere, copied into the run and scored like the rest.

    path: the folder; null with the entry's `why_not` for a method that was not run.
    pattern: a file's name, with any of the columns of triplets.csv, such as "{image_id}-{annotation_id}.png".
    resize: how to bring pictures of another size to the evaluation size; by default such are refused.
    known_region: `as-is`, or joined with the original like the results of the other methods.

    Files are copied; those that have changed since, by size or time, are copied again when the run is started
    again.
    """

    path: str | None = None
    pattern: str = "{index:06d}.png"
    resize: Literal["bilinear", "bicubic", "lanczos"] | None = None
    known_region: Literal["as-is", "exact", "blended"] = "as-is"

    needs_files: ClassVar[bool] = True

    def identity(self) -> dict[str, Any]:
        self._file(Sample(0, 0, 0, 0, 0, "", "", "", 0.0))  # says if the path is missing
        assert self.path is not None
        if not Path(self.path).is_dir():
            raise UserError(f"{self.path} is not a folder of results")
        return {**super().identity(), "path": str(Path(self.path).resolve())}

    def source(self, sample: Sample, run: Run | None = None) -> dict[str, Any]:
        try:
            about = self._file(sample).stat()
        except (OSError, UserError):  # without it, its copy stays
            return {}
        return {"source": [about.st_size, about.st_mtime_ns]}

    def paint(self, one: Input) -> np.ndarray:
        source = self._file(one.sample)
        image = np.array(load_image(source, "result"))
        if image.shape != one.image.shape:
            (h, w), (height, width) = image.shape[:2], one.image.shape[:2]
            if self.resize is None:
                raise UserError(
                    f"result {source} is {w} x {h} pixels instead of {width} x {height}: set resize for this "
                    "method if it may be resized"
                )
            image = resized(image, (height, width), self.resize)
        return image if self.known_region == "as-is" else blend(one.image, image, one.mask, self.known_region)

    def _file(self, sample: Sample) -> Path:
        if self.path is None:
            raise UserError("a folder of results needs a path, or why_not to say why there are none")
        try:
            for _, _, form, _ in string.Formatter().parse(self.pattern):
                if form and not re.fullmatch(r"0?\d{0,2}[ds]?", form):
                    raise ValueError(f"format {shown(form)}")
            return Path(self.path) / self.pattern.format(**dataclasses.asdict(sample))
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            raise UserError(
                f"pattern {shown(self.pattern)} does not fit the columns of a sample: {error!r}"
            ) from None
