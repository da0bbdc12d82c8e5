"""Configs of runs, ``configs/eval/*.yaml``: which samples, which methods, where to.

    out: outputs/ablation-{prompt}        # {prompt}: benchmark.prompt
    benchmark: {coco: toy, images: 1000, samples: 500, prompt: other, size: 256}
    model: mini
    seeds: {base: 1, per_sample: true}
    methods:
      painta: {steps: 20, painta.until: [0, 500]}
      glide: {kind: folder, path: null, why_not: its weights are not here}

Each list in a method's entry is a grid: `painta` becomes the runs ``painta,painta.until=0`` and
``painta,painta.until=500``. The kinds of methods and their keys are in `eval.kinds`. Any kind also takes
`label` (what tables print), `seed` (in place of seeds.base; a list repeats the method), `why_not` (it is not
run, and tables say why) and `if_missing` (why it is not run where its checkpoints are not here). The keys
metrics, published, ours and baseline are for scores and tables, which read them there.
"""

import argparse
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from eval.kinds import KINDS
from eval.kinds.base import Kind
from hdpainter.configs import read_yaml
from hdpainter.files import digest
from hdpainter.flags import add_trust
from hdpainter.models.registry import is_here
from hdpainter.settings import Seed
from hdpainter.team import DEVICES_HELP, device_names
from hdpainter.values import Range, convert, from_mapping
from ldm.util import CONFIGS, UserError, shown

FOR_TABLES = ("metrics", "published", "ours", "baseline")
NAME = re.compile(r"\w[\w.,=+ -]*")
LONGEST = 200  # bytes of a folder's name
RESERVED = ("inputs", "dataset", "tables")
MOST_RUNS = 1000  # of a config
MOST_SAMPLES = 1_000_000  # of a benchmark: seeds of different bases must not meet
MOST_BASE = 2**32 // MOST_SAMPLES - 1
Count = Annotated[int, Range(1, MOST_SAMPLES)]
LEVELS = ("painta_levels", "rasg_levels")  # a value of these is a list itself


@dataclass(frozen=True)
class Benchmark:
    """The samples.

    coco: an MSCOCO folder, or "toy": toy COCO of `images` pictures, drawn into the folder `cache` (by default
        the run's own) where it is not there yet.
    split: "val" for instances_val2017.json.
    samples, seed: how many triplets to draw, and the seed of the drawing; or
    list: a CSV file of triplets, as a path or beside the config.
    prompt: the `true` label, or an `other` one that is nowhere in the image.
    mask: the convex `hull` of an object, or its own outline, `precise`.
    size: longer side in pixels at which everything is made and scored.
    """

    coco: str = ""
    split: str = "val"
    images: Count | None = None
    cache: str | None = None
    samples: Count | None = None
    seed: Seed = 0
    list: str | None = None
    prompt: Literal["true", "other"] = "true"
    mask: Literal["hull", "precise"] = "hull"
    size: Annotated[int, Range(8, 8192, "the longer side in pixels, 8 to 8192")] = 512

    def __post_init__(self) -> None:
        if not self.coco:
            raise UserError("benchmark.coco is missing: give MSCOCO's folder, or toy")
        if (self.samples is None) == (self.list is None):
            raise UserError("benchmark needs one of samples and list")
        if (self.coco == "toy") != (self.images is not None):
            raise UserError(
                "benchmark.images is how many pictures toy COCO has: give it there, and only there"
            )


@dataclass(frozen=True)
class Seeds:
    """base: the seed of the noise. per_sample: whether every sample has its own, derived from base and its index,
    or all the same, as in the authors' release."""

    base: Seed = 1
    per_sample: bool = True


def seed_of(base: int, per_sample: bool, index: int) -> int:
    """The seed of a sample; for different bases no two samples share one.

    Raises UserError where it would be larger than torch's generator keeps: others would get the same noise.
    """
    if per_sample and not 0 <= base <= MOST_BASE:
        raise UserError(
            f"seed {shown(base)} is too large for seeds per sample: give one from 0 to {MOST_BASE}"
        )
    return base * MOST_SAMPLES + index if per_sample else base


@dataclass(frozen=True)
class Config:
    """A run. See the module; batch_size: results made at once at most; dtype: see `HDPainter.from_config`.
    trusted: whether the models' configs may name classes of other projects; no file says so."""

    out: str = ""
    benchmark: Benchmark = field(default_factory=lambda: Benchmark())
    model: str = "mini"
    seeds: Seeds = field(default_factory=Seeds)
    methods: dict = field(default_factory=dict)
    batch_size: Annotated[int, Range(1, 1000)] = 4
    dtype: str | None = None
    for_tables: dict = field(default_factory=dict)
    trusted: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not self.out:
            raise UserError("out is missing: name the folder for the results")
        if not self.methods:
            raise UserError("methods is empty: name what to run")

    @classmethod
    def load(cls, name_or_path: str | Path, trusted: bool = False, **replaced: Any) -> "Config":
        """A config by its name in ``configs/eval`` or by its path.

        trusted: the config's. replaced: values to put in place of the file's where they are not None, by key;
        coco and prompt are those of the benchmark. Raises UserError for what is no such config.
        """
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            path = CONFIGS / "eval" / f"{name_or_path}.yaml"
        values = read_yaml(path)
        benchmark = values.setdefault("benchmark", {})
        if not isinstance(benchmark, dict):
            raise UserError(f"{path}: benchmark must be a mapping, not {shown(benchmark)}")
        if benchmark.get("prompt") is True:  # YAML reads the word so
            benchmark["prompt"] = "true"
        if isinstance(benchmark.get("list"), str) and (path.parent / benchmark["list"]).is_file():
            benchmark["list"] = str(path.parent / benchmark["list"])
        for key, value in replaced.items():
            if value is not None:
                (benchmark if key in ("coco", "prompt") else values)[key] = value
        tables = {key: values.pop(key) for key in FOR_TABLES if key in values}
        try:
            config = from_mapping(cls, {**values, "for_tables": tables}, str(path))
        except UserError as error:
            raise error if str(path) in str(error) else UserError(f"{path}: {error}") from None
        config = replace(config, out=config.out.replace("{prompt}", config.benchmark.prompt))
        object.__setattr__(config, "trusted", trusted)
        return config

    @classmethod
    def asked(cls, args: argparse.Namespace) -> "Config":
        """The config that the command line asks for, by the arguments of `add_arguments`."""
        if args.limit is not None and args.limit < 1:
            raise UserError(f"--limit must be at least 1, not {args.limit}")
        replaced = {key: getattr(args, key) for key in ("out", "coco", "prompt", "batch_size", "dtype")}
        return cls.load(args.config, args.trust_config, **replaced)

    def entries(self) -> list["Entry"]:
        """All runs of all methods. Raises UserError for entries that make no sense and for names that clash."""
        entries: list[Entry] = []
        for name, values in self.methods.items():
            entries += expand(name, values, self.model, self.trusted)
            if len(entries) > MOST_RUNS:
                raise UserError(f"methods: these are over {MOST_RUNS:,} runs: give fewer methods or values")
        for entry in entries:
            seed_of(self.seeds.base if entry.seed is None else entry.seed, self.seeds.per_sample, 0)
        if twice := [name for name, count in Counter(entry.name for entry in entries).items() if count > 1]:
            raise UserError(f"methods: {min(twice)!r} is there twice")
        for place, entry in enumerate(entries):
            if (other := entry.how.after()) is not None and other not in [
                earlier.name for earlier in entries[:place]
            ]:
                raise UserError(
                    f"methods: {entry.name} is made from {other!r}, which is no method that stands before it"
                )
        return entries

    def runs(self, names: Sequence[str] | None = None) -> list["Entry"]:
        """The entries that are run, all without a `why_not`; or of these what `names` has, by its own name or by
        its method's. Raises UserError for a name that is neither.
        """
        entries = self.entries()
        known = {name for entry in entries for name in (entry.name, entry.base)}
        if unknown := [name for name in names or () if name not in known]:
            raise UserError(f"the config has no method {unknown[0]!r}; it has {', '.join(sorted(known))}")
        return [
            entry
            for entry in entries
            if not entry.why_not and (names is None or entry.name in names or entry.base in names)
        ]


@dataclass(frozen=True)
class Entry:
    """One run of a method: an entry of the config with the values of a grid filled in.

    name: of its folder. base, varied: the entry's name, and the values of the grid. seed: replaces the config's
    base seed. why_not: why it is not run.
    """

    name: str
    base: str
    varied: Mapping[str, Any]
    label: str
    seed: int | None
    why_not: str | None
    kind: str
    how: Kind

    def described(self, seed: int, per_sample: bool) -> dict[str, Any]:
        """What run.json says of it; its `hash` is that of all that determines the results."""
        settings = {} if self.why_not else {**self.how.identity(), "seed": seed, "per_sample": per_sample}
        settings = json.loads(json.dumps(settings))  # tuples become lists, as in a file that was read back
        return {
            "label": self.label,
            "kind": self.kind,
            "base": self.base,
            "varied": dict(self.varied),
            "why_not": self.why_not,
            "settings": settings,
            "hash": digest([self.kind, settings]),
        }


def expand(name: str, values: Mapping[str, Any] | None, model: str, trusted: bool = False) -> list[Entry]:
    """The runs of a config's entry: every list in it is a grid, except those that are a value themselves.

    model, trusted: the config's. Raises UserError that names the entry for unknown keys and values.
    """
    where = f"methods: {name}"
    if not isinstance(name, str):
        raise UserError(f"{where}: a name must be text: put it in quotes")
    if not isinstance(values or {}, Mapping):
        raise UserError(f"{where} must be a mapping of settings, not {shown(values)}")
    values = dict(values or {})
    if empty := [key for key, value in values.items() if value == [] and key not in LEVELS]:
        raise UserError(f"{where}: {empty[0]} is an empty list, which is no run at all: give values")
    axes = {key: value for key, value in values.items() if _is_grid(key, value)}
    if (runs := math.prod(map(len, axes.values()))) > MOST_RUNS:
        raise UserError(f"{where}: its lists make {shown(runs)} runs: give at most {MOST_RUNS:,}")
    entries = []
    for point in itertools.product(*axes.values()):
        varied = dict(zip(axes, point, strict=True))
        own = ",".join([name, *(f"{key}={_word(value)}" for key, value in varied.items())])
        if not NAME.fullmatch(own) or own in RESERVED or len(own.encode()) > LONGEST:
            raise UserError(
                f"{where}: {shown(own)} cannot be the name of a folder for results; use other words"
            )
        entries.append(_entry(own, name, varied, values | varied, model, trusted, where))
    return entries


def _entry(
    own: str,
    base: str,
    varied: Mapping[str, Any],
    values: dict[str, Any],
    model: str,
    trusted: bool,
    where: str,
) -> Entry:
    kind = values.pop("kind", "pipeline")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{where}: kind {shown(kind)} is not one of {', '.join(KINDS)}")
    common = {key: values.pop(key, None) for key in ("label", "seed", "why_not", "if_missing")}
    seed = common["seed"]
    if seed is not None:
        convert(Seed, seed, f"{where}: seed")
    for key in ("label", "why_not", "if_missing"):
        if not isinstance(common[key], str | None):
            raise UserError(f"{where}: {key} must be text, not {shown(common[key])}: put it in quotes")
    if kind == "pipeline":
        override = {key: values.pop(key) for key in list(values) if "." in str(key)}
        values = {"method": base, "override": override, **values}
    how = from_mapping(KINDS[kind], {"model": model, **values}, where)
    how = how.trusting() if trusted else how
    label = common["label"] or how.label(base)
    label = ", ".join([label, *(f"{key} {_word(value)}" for key, value in varied.items())])
    why_not = common["why_not"]
    if common["if_missing"] and not why_not and not all(map(is_here, how.checkpoints())):
        why_not = common["if_missing"]
    return Entry(own, base, varied, label, common["seed"], why_not, kind, how)


def _is_grid(key: str, value: Any) -> bool:
    """Whether a value is a list of values; levels are lists themselves."""
    return isinstance(value, list) and (key not in LEVELS or any(isinstance(one, list) for one in value))


def _word(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that `check` and `generate` share: which part of a config is run, and how."""
    parser.add_argument("--config", required=True, help="YAML file, or the name of one in configs/eval")
    parser.add_argument("--coco", help="folder of the dataset (default: the config's)")
    parser.add_argument("--prompt", choices=("true", "other"), help="label to paint (default: the config's)")
    parser.add_argument("--out", help="folder for the results (default: the config's)")
    parser.add_argument(
        "--devices",
        type=device_names,
        default=[None],
        help=f"{DEVICES_HELP} (default: the first of cuda, mps and cpu there is)",
    )
    parser.add_argument("--limit", type=int, help="only so many samples, the first of the list")
    parser.add_argument("--methods", nargs="+", help="only these, with or without the values of a grid")
    parser.add_argument("--batch-size", type=int, help="results made at once at most (default: the config's)")
    add_trust(parser)
    parser.add_argument("--dtype", help="float32, bfloat16, float16 (default: what the device computes fast)")
