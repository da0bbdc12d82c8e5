"""What a run's scores say: means and paired differences with intervals, for tables and report alike.

Scores are read as they lie in the run's folder. A method without results is a row with a reason and without
numbers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

import numpy as np

from eval.columns import COLUMN, COLUMNS, GUIDANCE, Column
from eval.runs import Run
from eval.stats import REPEATS, ClusterBootstrap, Difference, Mean, mask_bins, mcnemar, preference
from hdpainter.files import digest, parse_json
from ldm.util import UserError

BOUNDS = ("original", "squeezed", "reconstruction", "mean", "telea")  # kinds that are no competitors
PREFERENCES = ("pickscore", "minipick")  # where logits may be; the first that is there


def group_of(kind: Any) -> Literal["method", "bound"]:
    """Whether rows of a kind are competitors."""
    return "bound" if kind in BOUNDS else "method"


@dataclass(frozen=True)
class Judge:
    """What a metric's scores were made with. label: its name, with "mini" for a miniature. notes: what it
    left out. settings: the metric's own."""

    label: str
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A method, or several runs of one that differ in the seed only, averaged for each triplet.

    indices: of the triplets with a result. values: [N] for each column that was scored, in the scale that is
    averaged (of PSNR the squared error), NaN where a triplet has no score. missing: why there is no result.
    """

    name: str
    label: str
    group: Literal["method", "bound"]
    members: tuple[str, ...]
    indices: frozenset[int] = frozenset()
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    missing: str | None = None

    @property
    def done(self) -> int:
        """How many triplets have a result."""
        return len(self.indices)


@dataclass(frozen=True)
class Summary:
    """All numbers of a run. `means` has a key (row, column), `differences` (row, column) against the
    baseline, `preferred` the same for whether ours is preferred to the row at all (against 50%), `by_bin` and
    `by_category` (row, column, bin or category). `judges` has a key for each metric. preferences: the metric
    that has the logits. common: how many samples count, where it is only those that all rows have. An absent
    key is a number that there is not.
    """

    run: Run
    rows: list[Row]
    ours: str | None
    baseline: str | None
    judges: Mapping[str, Judge]
    preferences: str | None
    bins: np.ndarray
    means: Mapping[tuple[str, str], Mean]
    differences: Mapping[tuple[str, str], Difference]
    preferred: Mapping[tuple[str, str], Difference]
    by_bin: Mapping[tuple[str, str, int], Mean]
    by_category: Mapping[tuple[str, str, str], Mean]
    common: int | None = None

    @property
    def measured(self) -> list[Row]:
        """The rows that have results: methods, then bounds."""
        return sorted((row for row in self.rows if row.missing is None), key=lambda row: row.group == "bound")

    @property
    def counted(self) -> list[int]:
        """The triplets that count, ascending: those that any row has a result of, or all have (`common`)."""
        return sorted(set().union(*(row.indices for row in self.rows)))

    def scored(self, key: str) -> np.ndarray:
        """[N] whether any row has a score of a triplet in the column `key`."""
        found = [~np.isnan(row.values[key]) for row in self.rows if key in row.values]
        return np.any(found, axis=0) if found else np.zeros(len(self.run.triplets), bool)

    def label(self, metric: str) -> str:
        """What the scores of a metric were made with; empty where that was not recorded."""
        return self.judges[metric].label if metric in self.judges else ""

    def mini(self, metric: str) -> bool:
        """Whether a miniature made the scores of a metric, which is to be said wherever they are shown."""
        stored = self.preferences if metric == "pickscore" else metric
        return stored == "minipick" or "mini" in self.label(metric).lower()

    def row(self, name: str) -> Row:
        """The row of this name."""
        return next(row for row in self.rows if row.name == name)

    @property
    def references(self) -> tuple[Row | None, Row | None]:
        """The rows of `ours` and `baseline`, where there are such."""
        ours, baseline = (self.row(name) if name else None for name in (self.ours, self.baseline))
        return ours, baseline

    def columns(self, keys: Iterable[str] = tuple(COLUMN)) -> list[Column]:
        """Those of the columns `keys` that any row has."""
        return [COLUMN[key] for key in keys if any(key in row.values for row in self.rows)]


def summarise(
    run: Run,
    methods: Sequence[str] | None = None,
    *,
    absent: Sequence[Row] = (),
    common: bool = False,
    ours: str | None = None,
    baseline: str | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
) -> Summary:
    """Read the scores of `run` and compute every mean, interval and test.

    methods: the names of those to show, all by default. absent: rows of methods that the run does not know, with
    their reason. common: only samples that all rows have results of. ours, baseline: rows that the others are
    compared with; by default "hd-painter" and "stable-inpainting", or the first whose name begins so where there
    is no such row. repeats, seed: of the bootstrap.

    Raises UserError if the run has no triplets or no such row.
    """
    if not run.triplets:
        raise UserError(f"{run.path} has no triplets, so there is nothing to put in a table")
    names = run.methods if methods is None else list(methods)
    preferences = next((m for m in PREFERENCES if any(run.score_path(n, m).is_file() for n in names)), None)
    rows = [*_rows(run, names), *absent]
    ours, baseline = _choose(rows, ours, "hd-painter"), _choose(rows, baseline, "stable-inpainting")
    rows = _with_preferences(run, rows, ours, preferences)
    rows, shared = _of_common(run, rows) if common else (rows, None)
    bins = mask_bins(run.mask_shares)
    categories = np.array([triplet.prompt for triplet in run.triplets])  # what a method was asked for
    by_name = {row.name: row for row in rows}
    whole, paired, halves, binned, by_prompt = {}, {}, {}, {}, {}
    for row in rows:
        for key, values in row.values.items():
            column = COLUMN[key]
            whole[row.name, key] = values
            for index in np.unique(bins):
                binned[row.name, key, int(index)] = np.where(bins == index, values, np.nan)
            if column.test == "mcnemar":
                for category in np.unique(categories):
                    by_prompt[row.name, key, str(category)] = np.where(categories == category, values, np.nan)
            if column.test and baseline and row.name != baseline and key in by_name[baseline].values:
                paired[row.name, key] = values - by_name[baseline].values[key]
            if key in ("probability", "win_rate") and row.name != ours:
                halves[row.name, key] = values - 50
    bootstrap = ClusterBootstrap([triplet.image_id for triplet in run.triplets], repeats, seed)
    differences = _solve(bootstrap.differences, paired)
    return Summary(
        run=run,
        rows=rows,
        ours=ours,
        baseline=baseline,
        judges=_judges(run, names, preferences),
        preferences=preferences,
        bins=bins,
        means=_solve(bootstrap.means, whole),
        differences={
            key: _mcnemar(by_name, baseline, key, value) for key, value in differences.items() if baseline
        },
        preferred=_solve(bootstrap.differences, halves),
        by_bin=_solve(bootstrap.means, binned),
        by_category=_solve(bootstrap.means, by_prompt),
        common=shared,
    )


def _solve(compute: Callable[[np.ndarray], list], columns: Mapping[tuple, np.ndarray]) -> dict[tuple, Any]:
    if not columns:
        return {}
    found = compute(np.stack(list(columns.values()), axis=1))
    return {key: _back(COLUMN[key[1]], value) for key, value in zip(columns, found, strict=True) if value}


def _back(column: Column, mean: Mean) -> Mean:
    low, high = (None if end is None else column.outward(end) for end in (mean.low, mean.high))
    if low is not None and high is not None:
        low, high = sorted((low, high))
    return type(mean)(**{**vars(mean), "value": column.outward(mean.value), "low": low, "high": high})


def _mcnemar(rows: Mapping[str, Row], baseline: str, key: tuple[str, str], value: Difference) -> Difference:
    """`value` with McNemar's p where the column asks for it and is 0 or 1 (not an average over seeds)."""
    name, column = key
    if value.p is None:  # of too few images
        return value
    pair = [rows[row].values[column] / 100 for row in (name, baseline)]  # from per cent
    if COLUMN[column].test != "mcnemar" or any(not np.isin(v[~np.isnan(v)], (0, 1)).all() for v in pair):
        return value
    p, test = mcnemar(*pair)
    return type(value)(**{**vars(value), "p": p, "test": test})


def _choose(rows: list[Row], name: str | None, default: str) -> str | None:
    names = [row.name for row in rows]
    if name is not None:
        if name not in names:
            raise UserError(f"the run has no method {name!r}; it has {', '.join(names)}")
        return name
    measured = [row.name for row in rows if row.missing is None]
    if (
        default in measured
    ):  # not hd-painter-release, or an eta of a grid, that happens to be listed before it
        return default
    return next((candidate for candidate in measured if candidate.startswith(default)), None)


def _rows(run: Run, names: Sequence[str]) -> list[Row]:
    """The methods in the run's order; those that differ in the seed only become one.

    A seed counts once: where the config's own is 1, the runs `telea` and `telea,seed=1` are the same. Of these it
    is the one with more results.
    """
    groups: dict[tuple[str, str], dict[Any, str]] = {}
    for name in names:
        info = run.method(name)
        settings = info.get("settings") or {}
        seed = settings.get("seed", (info.get("varied") or {}).get("seed"))
        others = digest({key: value for key, value in settings.items() if key != "seed"})
        members = groups.setdefault((_without_seed(run, name), others), {})
        if seed not in members or len(run.done(name)) > len(run.done(members[seed])):
            members[seed] = name
    rows: list[Row] = []
    for (shared, _), members in groups.items():
        taken = shared in [row.name for row in rows]  # by a method of this name with other settings
        names_of = tuple(members.values())
        rows.append(_row(run, names_of[0] if taken else shared, names_of))
    return rows


def _without_seed(run: Run, name: str) -> str:
    """The name that a method and its runs with other seeds share: "hd-painter,eta=0.1" for both seeds."""
    varied = run.method(name).get("varied") or {}
    return ",".join(
        part for part in name.split(",") if "seed" not in varied or part != f"seed={varied['seed']}"
    )


def _label(run: Run, members: tuple[str, ...]) -> str:
    """What tables call the runs of a method with these seeds."""
    label = run.label(members[0])
    if len(members) == 1:
        return label
    varied = run.method(members[0]).get("varied") or {}
    own = label.replace(f", seed {varied['seed']}", "") if "seed" in varied else label
    return f"{own} ({len(members)} seeds)"


def _row(run: Run, name: str, members: tuple[str, ...]) -> Row:
    info, label = run.method(members[0]), _label(run, members)
    group = group_of(info.get("kind"))
    done = set.intersection(*(set(run.done(member)) for member in members))
    if not done:
        reason = info.get("why_not") or "no results yet; python -m eval generate makes them"
        return Row(name, label, group, members, missing=str(reason))
    values: dict[str, np.ndarray] = {}

    @cache
    def scores(member: str, metric: str) -> Mapping[str, np.ndarray] | None:
        return run.numbers_noted(member) if metric == GUIDANCE else run.scores(member, metric)

    for column in COLUMNS:
        if column.metric == "pickscore":
            continue  # a comparison of two rows
        found = _given(
            _column(run, member, column.metric, column.key, scores(member, column.metric))
            for member in members
        )
        if found is not None:
            values[column.key] = np.mean([column.inward(each) for each in found], axis=0)
    return Row(name, label, group, members, frozenset(done), values)


def _of_common(run: Run, rows: Sequence[Row]) -> tuple[list[Row], int]:
    """The rows with what they say of the samples that all of them have results of, and how many these are."""
    measured = [row.indices for row in rows if row.missing is None]
    common = frozenset(range(len(run.triplets))).intersection(*measured)
    if measured and not common:
        raise UserError(f"{run.path} has no sample that all methods have a result of: leave out --common")
    there = np.isin(np.arange(len(run.triplets)), list(common))

    def cut(row: Row) -> Row:
        values = {key: np.where(there, column, np.nan) for key, column in row.values.items()}
        return replace(row, values=values, indices=common if row.missing is None else frozenset())

    return [cut(row) for row in rows], len(common)


def _column(
    run: Run, method: str, metric: str, key: str, scores: Mapping[str, np.ndarray] | None
) -> np.ndarray | None:
    if scores is None or key not in scores:
        return None
    try:
        values = np.asarray(scores[key], dtype=np.float64)
    except ValueError:
        path = run.score_path(method, metric)
        raise UserError(f"{path} is damaged ({key} must be numbers): delete it and score again") from None
    with np.errstate(over="ignore"):
        averaged = COLUMN[key].inward(values) if key in COLUMN else values
    if np.isinf(averaged).any():
        path = run.score_path(method, metric)
        raise UserError(f"{path} is damaged ({key} is infinite): delete it and score again")
    return None if np.isnan(values).all() else values


def _given(columns: Iterable[np.ndarray | None]) -> list[np.ndarray] | None:
    """The columns, or None where one of them is missing."""
    found = list(columns)
    return None if any(each is None for each in found) else [each for each in found if each is not None]


def _with_preferences(run: Run, rows: list[Row], ours: str | None, metric: str | None) -> list[Row]:
    """`rows` with how often, and with what probability, ours is preferred to each.

    Of several seeds every pair counts the same. Ours against itself has no column: it is 50% by definition.
    """
    if metric is None or ours is None:
        return rows

    def logits(row: Row) -> list[np.ndarray]:
        found = _given(_column(run, m, metric, "logit", run.scores(m, metric)) for m in row.members)
        return [] if row.missing or found is None else found

    own = logits(next(row for row in rows if row.name == ours))
    result = []
    for row in rows:
        pairs = [preference(a, b) for a in own for b in logits(row)] if row.name != ours else []
        mean = 100 * np.mean(pairs, axis=0) if pairs else ()
        extra = dict(zip(("probability", "win_rate"), mean, strict=False))
        result.append(replace(row, values={**row.values, **extra}))
    return result


def _judges(run: Run, names: Sequence[str], preferences: str | None) -> dict[str, Judge]:
    """What made the run's scores, by metric. Raises UserError if it was not the same for all methods."""
    judges = {}
    for metric in dict.fromkeys(column.metric for column in COLUMNS):
        stored = preferences if metric == "pickscore" else metric
        records = {m: record for m in names if stored and (record := _record(run, m, stored))}
        for method, record in records.items():
            first = next(iter(records))
            if record.get("settings") != records[first].get("settings"):
                raise UserError(
                    f"{stored} of {method} and of {first} were computed with different settings: "
                    f"score both again with python -m eval score {run.path} --metric {stored}"
                )
        if records:
            last = list(records.values())[-1]
            settings = last.get("settings") or {}
            judges[metric] = Judge(str(last["label"]), tuple(last.get("notes") or ()), settings)
    return judges


def _record(run: Run, method: str, metric: str) -> dict[str, Any] | None:
    path = run.score_path(method, metric).with_suffix(".json")
    if not path.is_file():
        return None
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
        _ = record["label"], record.items()
        return record
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged: delete it and score again") from None
