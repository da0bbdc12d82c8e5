"""Reading lists of jobs from YAML, CSV, JSON Lines or a folder of pictures; all give the same jobs.

A mistake in one job (a missing key, a value out of range) becomes a `Problem` and leaves the others alone. A key
that no job has stops the whole file with a UserError: then the file is not what its writer thinks it is.
"""

import codecs
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hdpainter.configs import parse_yaml
from hdpainter.files import parse_json, refuse_name
from hdpainter.images import suffixes
from hdpainter.jobs.job import JOB_KEYS, Job, JobSettings, check_values, make_jobs, name_key, parse_values
from hdpainter.jobs.tables import read_table
from hdpainter.models.choice import ModelChoice
from hdpainter.values import check_keys, from_mapping, kinds
from ldm.util import UserError, cut, refuse_device, shown

MODEL_KEYS = tuple(kinds(ModelChoice))
FILE_KEYS = (*MODEL_KEYS, "out", "defaults", "jobs")


@dataclass(frozen=True)
class Problem:
    """A job that cannot run: its place in the job file, why, and where in the program if that is to blame."""

    where: str
    message: str
    trace: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class JobFile:
    """A job file as read. `model`: what it says of it, by the keys of `ModelChoice`; `out`: None if nothing."""

    source: Path
    jobs: list[Job]
    problems: list[Problem]
    model: Mapping[str, Any] = field(default_factory=dict)
    out: Path | None = None


@dataclass(frozen=True)
class _Entry:
    """A job as written, or what is wrong with it."""

    where: str
    values: Mapping[str, Any]
    problem: str = ""


def read_jobs(source: str | Path, flags: Mapping[str, Any] | None = None) -> JobFile:
    """Read `source`: a .yaml, .yml, .csv or .jsonl file, or a folder.

    Relative paths are relative to the job file. `flags`, the command line's settings, go before the file's
    `defaults`, and what a job says itself goes before both. A job without a seed takes the default one (0 if
    nobody gives any), so that its picture depends neither on its place in the file nor on the other jobs.

    Raises UserError when the file as a whole cannot be understood.
    """
    source = base = Path(source)
    header: Mapping[str, Any] = {}
    if source.is_dir():
        entries = list(_folder(source, masked="outpaint" not in (flags or {})))
    else:
        base = source.parent
        reader = _READERS.get(source.suffix.lower())
        if reader is None:
            raise UserError(
                f"{source}: unknown kind of job file; known: {', '.join(_READERS)}, or a folder of images"
            )
        header, entries = reader(source)
    if not entries:
        raise UserError(f"{source} has no jobs")

    defaults = {**header.get("defaults", {}), **(flags or {})}
    jobs, problems = [], []
    names = {"summary": "the report of the batch, summary.json"}
    seen: dict[tuple, str] = {}
    shared: dict[JobSettings, JobSettings] = {}  # thousands of jobs share a few settings
    for entry in entries:
        try:
            if entry.problem:
                raise UserError(entry.problem)
            for job in make_jobs({**defaults, **entry.values}, base, entry.where, names):
                job = replace(job, settings=shared.setdefault(job.settings, job.settings))
                names[name_key(job.name)] = entry.where
                key = (job.image, job.mask, job.prompt, job.settings)
                if original := seen.get(key):
                    raise UserError(f"the same as {original}; remove it, or give it another seed")
                seen[key] = entry.where
                jobs.append(job)
        except UserError as error:
            problems.append(Problem(entry.where, str(error).removeprefix(f"{entry.where}: ")))
    out = header.get("out")
    return JobFile(source, jobs, problems, _model(header, base), None if out is None else base / out)


def _model(header: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """What the header says of the model; paths of files beside the job file are made whole."""
    said = {key: header[key] for key in MODEL_KEYS if key in header}
    if Path(said.get("model", "")).suffix in (".yaml", ".yml"):
        said["model"] = str(base / said["model"])
    if "checkpoint" in said:
        said["checkpoint"] = _beside(base, said["checkpoint"])
    if "lora" in said:
        said["lora"] = [_beside(base, name) for name in said["lora"]]
    return said


def _beside(base: Path, name: str) -> str:
    """`name`, which may end in a LoRA's scale, as a path where there is such a file beside the job file."""
    refuse_name(base / name)
    return str(base / name) if (base / name).exists() or (base / name.rpartition(":")[0]).is_file() else name


def _read_text(path: Path) -> str:
    refuse_device(path)
    try:
        content = path.read_bytes()
        # The "Unicode text" of spreadsheets.
        marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    if "\0" in text:  # UTF-16 without a mark
        raise UserError(f"{path} is not UTF-8 text, it has zero bytes; save it as UTF-8")
    return text


def _entry(values: Mapping[str, Any], where: str) -> _Entry:
    check_keys(values, JOB_KEYS, where)
    return _Entry(where, {key: value for key, value in values.items() if value is not None})


# YAML and JSON Lines


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping of these pairs. Raises UserError where a key stands twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise UserError(f"key {shown(twice)} stands twice in one mapping")
    return values


def _read_yaml(path: Path) -> tuple[Mapping[str, Any], list[_Entry]]:
    header = parse_yaml(_read_text(path), path)
    if not isinstance(header, dict):
        raise UserError(f"{path} must hold a mapping with the key 'jobs'")
    check_keys(header, FILE_KEYS, path.name)
    header = {key: value for key, value in header.items() if value is not None}
    from_mapping(ModelChoice, {key: header[key] for key in MODEL_KEYS if key in header}, path.name)
    for key, kind, what in (
        ("out", str, "text"),
        ("defaults", dict, "a mapping"),
        ("jobs", list, "a list"),
    ):
        if key in header and not isinstance(header[key], kind):
            raise UserError(f"{path.name}: {key} must be {what}, not {shown(header[key])}")
    if "defaults" in header:
        where = f"{path.name}, defaults"
        header["defaults"] = dict(_entry(header["defaults"], where).values)
        check_values(header["defaults"], where)
    entries = []
    for number, values in enumerate(header.get("jobs", ()), 1):
        where = f"{path.name}, job {number}"
        entries.append(_entry(values, where) if isinstance(values, dict) else _not_a_mapping(where, values))
    return header, entries


def _read_jsonl(path: Path) -> tuple[Mapping[str, Any], list[_Entry]]:
    entries = []
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            values = parse_json(line, object_pairs_hook=_unique)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        except ValueError as error:  # also of a number with thousands of digits
            raise UserError(f"{where} is not valid JSON: {cut(str(error), 200)}") from None
        entries.append(_entry(values, where) if isinstance(values, dict) else _not_a_mapping(where, values))
    return {}, entries


def _not_a_mapping(where: str, values: Any) -> _Entry:
    return _Entry(where, {}, f"a job must be a mapping of keys to values, not {shown(values)}")


# CSV


def _read_csv(path: Path) -> tuple[Mapping[str, Any], list[_Entry]]:
    """An empty cell is a key that is not given, except a prompt: that is the empty prompt."""
    entries = []
    for row in read_table(_read_text(path), path.name, JOB_KEYS):
        cells = {key: cell for key, cell in (row.cells or {}).items() if cell or key == "prompt"}
        entries.append(_Entry(f"{path.name}, line {row.line}", parse_values(cells), row.problem))
    return {}, entries


_READERS = {".yaml": _read_yaml, ".yml": _read_yaml, ".csv": _read_csv, ".jsonl": _read_jsonl}


# Folders


def _folder(folder: Path, masked: bool = True) -> Iterator[_Entry]:
    """Images `boat.jpg` with masks `boat_mask.png` beside them, or `images/boat.jpg` and `masks/boat.png`.

    The prompt comes from `boat.txt` beside the image, from `prompts.csv` (columns image, prompt and any setting;
    several rows for one image are several jobs), from `prompts.txt` (one line for each image, in the order of
    their names), or from the defaults, whichever is found first. masked: whether every image needs a mask.
    """
    parts = (folder / "images", folder / "masks")
    images, masks = _images_and_masks(*(parts if parts[0].is_dir() else (folder, folder)))
    rows = _prompt_rows(folder, images)
    for name, image in images.items():
        where = image.relative_to(folder).as_posix()
        files = {"image": where}
        if name in masks:
            files["mask"] = masks.pop(name).relative_to(folder).as_posix()
        text = image.with_suffix(".txt")
        jobs = rows.pop(name, [_Entry(where, {"name": name})])
        if text.is_file():
            jobs = [_Entry(where, {"name": name, "prompt": _read_text(text).strip()})]
        for job in jobs:
            values = {**files, **job.values, "image": where}
            lacking = masked and "mask" not in values
            problem = f"no mask; it should be called {name}_mask.png" if lacking else ""
            yield replace(job, values=values, problem=job.problem or problem)
    for mask in masks.values():
        yield _Entry(mask.relative_to(folder).as_posix(), {}, "this mask has no image of its name")
    for name, strays in rows.items():
        for row in strays:
            yield replace(row, problem=row.problem or f"there is no image {name!r} in {folder.name}")


def _images_and_masks(image_folder: Path, mask_folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Both by the image's name without suffix, sorted. A mask may have `_mask` after that name; where images and
    masks share a folder it must have. Hidden files, such as the ``._boat.jpg`` of some systems, are neither."""
    shared = image_folder == mask_folder
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in _pictures(image_folder):
        if not (shared and path.stem.endswith("_mask")):
            _add(images, _stem(path), path)
    for path in _pictures(mask_folder) if mask_folder.is_dir() else ():
        if not shared or path.stem.endswith("_mask"):
            name = _stem(path)
            _add(masks, name if name in images else name.removesuffix("_mask"), path)
    return images, masks


def _pictures(folder: Path) -> list[Path]:
    """The files in a folder that are pictures by their names."""
    known = suffixes()
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in known and path.name[0] != ".")


def _stem(path: Path) -> str:
    """A file's name without suffix, the same however its accents are stored."""
    return unicodedata.normalize("NFC", path.stem)


def _add(found: dict[str, Path], name: str, path: Path) -> None:
    if name in found:
        raise UserError(f"{found[name]} and {path.name} have the same name; rename one")
    found[name] = path


def _prompt_rows(folder: Path, images: Mapping[str, Path]) -> dict[str, list[_Entry]]:
    """The rows of prompts.csv or prompts.txt by the name of their image."""
    table, lines = folder / "prompts.csv", folder / "prompts.txt"
    rows: dict[str, list[_Entry]] = {}
    if table.is_file() and lines.is_file():
        raise UserError(f"{folder} has both prompts.csv and prompts.txt; keep one")
    if table.is_file():
        for entry in _read_csv(table)[1]:
            rows.setdefault(_stem(Path(str(entry.values.get("image", "")))), []).append(entry)
    elif lines.is_file() and "prompts" not in images:
        prompts = re.split(r"\r\n|\r|\n", _read_text(lines))
        while len(prompts) > len(images) and not prompts[-1].strip():  # blank lines at the end are none
            prompts.pop()
        if len(images) > 1 and (pair := _numbered_otherwise(list(images))):
            raise UserError(
                f"{lines} goes by the order of names, and that of {pair[0]} and {pair[1]} is another by letters "
                "than by numbers: give the numbers zeros in front, or write prompts.csv with image and prompt"
            )
        if len(prompts) != len(images):
            raise UserError(
                f"{lines} has {len(prompts)} lines for {len(images)} images; write one line for each"
            )
        for name, prompt in zip(images, prompts, strict=True):
            rows[name] = [_Entry(images[name].name, {"name": name, "prompt": prompt})]
    return rows


def _numbered_otherwise(names: list[str]) -> tuple[str, str] | None:
    """The first two neighbours of sorted names that people, who count, would order otherwise."""

    def counted(name: str) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", name.casefold())
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

    return next(
        ((one, other) for one, other in itertools.pairwise(names) if counted(one) > counted(other)), None
    )
