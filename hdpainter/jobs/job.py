"""What a job is: one picture to make, with everything that may be set for it.

`JobSettings` is the one table behind the keys of a YAML or JSON Lines job, the columns of a CSV file and the
flags of the command line.
"""

import difflib
import re
import typing
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hdpainter.settings import from_mapping, whole_number
from ldm.util import UserError

MAX_NAME = 200  # bytes of a result's name; file systems take 255 for all, with suffixes and what marks parts
_UNFIT = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]')  # in file names of some system


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class JobSettings:
    """What may be set besides image, mask and prompt. None: as the method has it, or the model."""

    method: str | None = _option(None, "name of a method, or path of its YAML file (default: the model's)")
    seed: int = _option(0, "seed of the noise")
    steps: int | None = _option(None, "denoising steps of stage 1 (default: the method's)")
    guidance_scale: float | None = _option(
        None, "classifier-free guidance of stage 1 (default: the method's)"
    )
    eta: float | None = _option(None, "share of the stochastic term of DDIM, 0 to 1 (default: the method's)")
    negative_prompt: str | None = _option(None, "what to keep away from (default: the method's)")
    size: int | None = _option(None, "longer side of stage 1 in pixels (default: the model's)")
    superres: bool = _option(True, "stage 2, x4 super-resolution (default: on)")
    crop_margin: int | None = _option(
        None,
        "stage 2 works only around the mask, with this margin in pixels of stage 1: faster, not exact "
        "(default: the method's, or else the model's)",
    )
    tile: int | None = _option(
        None,
        "stage 2 encodes and decodes in tiles of this many pixels: less memory, not exact (default: whole)",
    )
    known_region: str | None = _option(
        None,
        "exact: pixels outside the mask stay bit-identical; blended: Poisson blending also moves those near it "
        "(default: the method's)",
    )

    def check(self) -> None:
        """Raise UserError for a value out of range that the method does not check itself."""
        whole_number("seed", self.seed)
        if self.size is not None:
            whole_number("size", self.size)
        if self.known_region not in (None, "exact", "blended"):
            raise UserError(f"known_region is {self.known_region!r}: give exact or blended")


SETTING_KEYS = tuple(setting.name for setting in fields(JobSettings))


@dataclass(frozen=True)
class _Row(JobSettings):
    """All keys of a job with their types, before paths are resolved."""

    name: str | None = None
    image: str | None = None
    mask: str | None = None
    prompt: str | None = None


JOB_KEYS = tuple(setting.name for setting in fields(_Row))
_TYPES = typing.get_type_hints(_Row)


@dataclass(frozen=True)
class Job:
    """One picture to make. `name` is its file name without suffix, `where` its place in the job file."""

    name: str
    image: Path
    mask: Path
    prompt: str
    settings: JobSettings
    where: str = field(compare=False)


def make_job(values: Mapping[str, Any], base: Path, where: str, taken: Mapping[str, str]) -> Job:
    """The job with these keys; relative paths are relative to `base`.

    A job without a name is called after its image and the first words of its prompt, with -2, -3, ... where that
    is taken. `taken` maps the `name_key`s of earlier jobs to their places.

    Raises UserError for wrong types and values, missing keys and a `name` that is taken or no file name.
    """
    row = from_mapping(_Row, values, where)
    for key in ("image", "mask", "prompt"):
        if getattr(row, key) is None:
            raise UserError(f"{key} is missing")
    for key in ("image", "mask"):
        if not getattr(row, key):
            raise UserError(f"{key} is empty")
    settings = JobSettings(**{key: getattr(row, key) for key in SETTING_KEYS})
    settings.check()
    if settings.method and Path(settings.method).suffix in (".yaml", ".yml"):
        settings = replace(settings, method=str(base / settings.method))
    if row.name is None:
        name = _free_name(Path(row.image).stem, row.prompt, taken)
    else:
        name = row.name
        if other := taken.get(name_key(name)):
            raise UserError(f"the name {name!r} is taken by {other}; give another one")
    _check_name(name)
    return Job(name, base / row.image, base / row.mask, row.prompt, settings, where)


def with_method(job: Job, method: str) -> Job:
    """The job by `method`, if it names none itself."""
    return job if job.settings.method else replace(job, settings=replace(job.settings, method=method))


def check_keys(keys: Collection[Any], known: Collection[str], where: str) -> None:
    """Raise UserError for the first key that is not among the known ones, with the nearest of them."""
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            advice = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
            raise UserError(f"{where}: unknown key {key!r}; {advice}")


def parse_text(key: str, text: str) -> Any:
    """The value of `key` from a CSV cell or a flag; left as it is where it does not parse, for `make_job` to
    complain about."""
    kinds = typing.get_args(_TYPES[key]) or (_TYPES[key],)
    try:
        if bool in kinds:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                text.lower()
            ]
        if int in kinds:
            return int(text)
        if float in kinds:
            return float(text)
    except (KeyError, ValueError):
        pass
    return text


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
