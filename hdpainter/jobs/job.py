"""What a job is: one picture to make, with everything that may be set for it.

`JobSettings` is the one table behind the keys of a YAML or JSON Lines job, the columns of a CSV file and the
flags of the command line.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from hdpainter.settings import RESULTS, Adjustments, Method, Seed, Size, parse_places, setting
from hdpainter.values import Range, from_mapping, kinds, parse
from ldm.util import UserError

MAX_NAME = 200  # bytes of a result's name; file systems take 255 for all, with suffixes and what marks parts
_UNFIT = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]')  # in file names of some system


@dataclass(frozen=True, kw_only=True)
class JobSettings(Adjustments):
    """What may be set besides image, mask and prompt. None: as the method has it, or the model."""

    method: str | None = setting(
        "model and method",
        "name of a method, or path of its YAML file, or of a result, for its own (default: the model's)",
    )
    set: str | None = setting(
        "model and method",
        "any value of the method by its place, such as rasg.sigma=per_step; may be given several times",
        several=True,
    )
    seed: Seed = setting("sampler", "seed of the noise (default: 0)", default=0)
    size: Size | None = setting("sampler", "longer side of stage 1 in pixels (default: the model's)")
    superres: bool = setting("stage 2", "x4 super-resolution (default: on)", default=True)

    def resolve(self) -> Method:
        """The method that is named, with the values in it.

        Raises UserError if there is none of its name, or a value does not fit it.
        """
        method = self.unadjusted
        return (method.override(parse_places(self.set)) if self.set else method).adjusted(self)

    @property
    def unadjusted(self) -> Method:
        """The method that is named. Raises UserError if there is none of its name."""
        assert self.method is not None, "the model's is filled in before"
        return Method.load(self.method)


@dataclass(frozen=True, kw_only=True)
class _Row(JobSettings):
    """All keys of a job with their types, before paths are resolved."""

    name: str | None = None
    image: str | None = None
    mask: str | None = None
    prompt: str | None = None
    num_samples: Annotated[int, Range(1, 1000)] = 1


JOB_KEYS = tuple(kinds(_Row))


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to make. `name` is its file name without suffix, `where` its place in the job file. There is no
    mask where only what is outpainted is to be filled."""

    name: str
    image: Path
    mask: Path | None
    prompt: str
    settings: JobSettings
    where: str = field(compare=False)


def make_jobs(values: Mapping[str, Any], base: Path, where: str, taken: Mapping[str, str]) -> list[Job]:
    """The job with these keys, or for each of `num_samples` seeds one: that of the job, and those that follow.

    Their names, where the job has one, end in -1, -2, ...; else as for `make_job`.
    """
    row = from_mapping(_Row, values, where)
    if row.num_samples == 1:
        return [make_job(values, base, where, taken)]
    jobs, names = [], dict(taken)
    for number in range(row.num_samples):
        own = {**values, "seed": row.seed + number}
        if row.name is not None:
            own["name"] = f"{row.name}-{number + 1}"
        jobs.append(make_job(own, base, where, names))
        names[name_key(jobs[-1].name)] = where
    return jobs


def make_job(values: Mapping[str, Any], base: Path, where: str, taken: Mapping[str, str]) -> Job:
    """The job with these keys; relative paths are relative to `base`.

    A job without a name is called after its image and the first words of its prompt, with -2, -3, ... where that
    is taken. `taken` maps the `name_key`s of earlier jobs to their places.

    Raises UserError for wrong types and values, missing keys and a `name` that is taken or no file name.
    """
    row = from_mapping(_Row, values, where)
    for key in ("image", "mask", "prompt"):
        if getattr(row, key) is None and not (key == "mask" and row.outpaint):
            raise UserError(f"{key} is missing")
        if key != "prompt" and getattr(row, key) == "":
            raise UserError(f"{key} is empty")
    settings = JobSettings(**{key: getattr(row, key) for key in kinds(JobSettings)})
    if settings.method and Path(settings.method).suffix in (".yaml", ".yml", *RESULTS):
        settings = replace(settings, method=str(base / settings.method))
    if row.name is None:
        name = _free_name(Path(row.image).stem, row.prompt, taken)
    else:
        name = row.name
        if other := taken.get(name_key(name)):
            raise UserError(f"the name {name!r} is taken by {other}; give another one")
    _check_name(name)
    mask = None if row.mask is None else base / row.mask
    return Job(name, base / row.image, mask, row.prompt, settings, where)


def with_method(job: Job, method: str) -> Job:
    """The job by `method`, if it names none itself."""
    return job if job.settings.method else replace(job, settings=replace(job.settings, method=method))


def parse_values(texts: Mapping[str, str]) -> dict[str, Any]:
    """The values of a job's keys from CSV cells or flags; what does not parse is left for `check_values`."""
    return {key: parse(kinds(_Row)[key], text) for key, text in texts.items()}


def check_values(values: Mapping[str, Any], where: str = "") -> None:
    """Raise UserError for a key that no job has, and for a value of a wrong type or out of range."""
    from_mapping(_Row, values, where)


def name_key(name: str) -> str:
    """Equal for names that are one file on some system: upper and lower case, composed and decomposed."""
    return unicodedata.normalize("NFC", name).casefold()


def _free_name(stem: str, prompt: str, taken: Mapping[str, str]) -> str:
    """`stem` and the first words of the prompt, made a name that `_check_name` accepts."""
    stem = re.sub(r"^[\s.]+", "", _UNFIT.sub("-", stem)) or "picture"
    words = re.sub(r"[\W_]+", "-", prompt.lower()[:40]).strip("-")
    name = f"{stem}-{words}" if words else stem
    number, ending = 1, ""
    while name_key(unique := _cut(name, MAX_NAME - len(ending)) + ending) in taken:
        number += 1
        ending = f"-{number}"
    return unique


def _cut(name: str, size: int) -> str:
    """As much of `name` as fits into `size` bytes."""
    return name.encode()[:size].decode(errors="ignore").rstrip()


def _check_name(name: str) -> None:
    if not name or name.startswith(".") or name != name.strip() or _UNFIT.search(name):
        raise UserError(f'the name {name!r} is no plain file name; give one without / \\ : * ? " < > |')
    if len(name.encode()) > MAX_NAME:
        raise UserError(f"the name {name[:20]!r}... is longer than {MAX_NAME} bytes; give a shorter one")
