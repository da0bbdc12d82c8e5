"""What another method made, joined with the original."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from eval.kinds.base import Input, Kind, Made, Paint
from eval.runs import Run, Sample, digest_of
from hdpainter.blend import blend
from hdpainter.jobs.progress import OnStep
from ldm.util import UserError

if TYPE_CHECKING:
    from eval.models import ModelCache


@dataclass(frozen=True)
class Joined(Kind):
    """The `decoded` results of another method of the run, joined with their originals: what the joining alone
    changes, without painting again.

    of: that method's name; it stands before this one in the config. known_region: how they are joined.

    What was made again since is joined again when the run is started again.
    """

    of: str = ""
    known_region: Literal["exact", "blended"] = "exact"

    def after(self) -> str | None:
        return self.of

    def source(self, sample: Sample, run: Run | None = None) -> dict[str, Any]:
        made = run.manifest(self.of).get(sample.index) if run else None
        return {"source": digest_of(made)} if made else {}

    def load(self, models: "ModelCache", progress: OnStep) -> Paint:
        return lambda inputs: [self._join(one) for one in inputs]

    def _join(self, one: Input) -> Made:
        if one.made is None:
            raise UserError(f"there is no result {one.sample.index} of {self.of} to join")
        picture, digest = one.made
        return Made(blend(one.image, picture, one.mask, self.known_region), {"source": digest})
