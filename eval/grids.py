"""A run's numbers arranged as tables of text, whatever they are then written as.

What was measured here and what others published never share a table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from eval.columns import COLUMN, EXTRA_COLUMNS, PAPER_COLUMNS, Column, number
from eval.neglect import SHOWN, THRESHOLD, neglect
from eval.published import Published
from eval.stats import FEWEST, MASK_BINS, Difference, Mean
from eval.summary import Row, Summary

NOTHING = "–"

GROUPS = {"method": "Methods", "bound": "Bounds, not methods"}


@dataclass(frozen=True)
class Section:
    """Rows that belong together, under a heading. words: they are (name, what there is to say) instead of
    numbers."""

    heading: str
    rows: tuple[tuple[str, ...], ...]
    words: bool = False


@dataclass(frozen=True)
class Grid:
    """A table. key: a word for file names and anchors. quoted: figures of others. note: what must be
    known."""

    key: str
    title: str
    head: tuple[str, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    quoted: bool = False


def grids(summary: Summary, published: Published | None = None) -> list[Grid]:
    """All tables of a run; with `published`, the figures of others in a table of their own at the end."""
    made = [
        _measured(summary, PAPER_COLUMNS, "measured", "Measured", _measured_notes(summary)),
        _measured(summary, EXTRA_COLUMNS, "beyond", "Beyond the paper", _extra_notes(summary)),
        _compared(summary),
        _neglected(summary),
        *(_binned(summary, column) for column in summary.columns(("clip", "acc"))),
    ]
    return [grid for grid in made if grid is not None] + ([_quoted(published)] if published else [])


def title_of(summary: Summary, column: Column) -> str:
    """A column's head; it says "mini" where a miniature made the numbers, and then not "PickScore"."""
    if not summary.mini(column.metric):
        return column.title
    name, comma, rest = column.head.partition(",")
    name = "preference" if name == "PickScore" else name
    return column.title.replace(column.head, f"{name} (mini){comma}{rest}", 1)


def interval(mean: Mean, digits: int) -> str:
    """ "[low, high]", or nothing where there is none."""
    if mean.low is None or mean.high is None or mean.low == float("inf"):
        return ""
    return f" [{number(mean.low, digits)}, {number(mean.high, digits)}]"


def p_text(p: float | None) -> str:
    """A p-value as tables print it."""
    if p is None:
        return ""
    return ", p < 0.001" if p < 0.001 else f", p = {p:.3f}"


def fewer(mean: Mean, expected: int) -> str:
    """ " (n = 3)" where a mean is of fewer samples than is said elsewhere."""
    return f" (n = {mean.n})" if mean.n < expected else ""


def _cell(mean: Mean | None, column: Column, expected: int) -> str:
    if mean is None:
        return NOTHING
    return number(mean.value, column.digits) + interval(mean, column.digits) + fewer(mean, expected)


def _difference_cell(difference: Difference | None, column: Column, expected: int) -> str:
    if difference is None:
        return NOTHING
    sign = "+" if difference.value > 0 else ""
    return (
        sign
        + number(difference.value, column.digits)
        + interval(difference, column.digits)
        + p_text(difference.p)
        + fewer(difference, expected)
    )


def _sections(summary: Summary, cells: Callable[[Row], tuple[str, ...]]) -> tuple[Section, ...]:
    """Methods, bounds and what was not run, each row made by `cells`."""
    methods = tuple(cells(row) for row in summary.measured if row.group == "method")
    bounds = tuple(cells(row) for row in summary.measured if row.group == "bound")
    missing = tuple((row.label, f"not run: {row.missing}") for row in summary.rows if row.missing is not None)
    found = (
        Section(GROUPS["method"], methods),
        Section(GROUPS["bound"], bounds),
        Section("Not run", missing, words=True),
    )
    return tuple(section for section in found if section.rows)


def _measured(
    summary: Summary, keys: Sequence[str], key: str, title: str, notes: tuple[str, ...]
) -> Grid | None:
    columns = summary.columns(keys)
    if not columns and key != "measured":
        return None

    def cells(row: Row) -> tuple[str, ...]:
        numbers = (
            "50 by definition"
            if row.name == summary.ours and column.metric == "pickscore"
            else _cell(summary.means.get((row.name, column.key)), column, row.done)
            for column in columns
        )
        return (row.label, str(row.done), *numbers)

    head = ("method", "n", *(title_of(summary, column) for column in columns))
    return Grid(key, title, head, _sections(summary, cells), notes)


TOO_FEW = f"Fewer than {FEWEST} images: no interval and no p."


def _compared(summary: Summary) -> Grid | None:
    """Paired differences from the baseline, and whether ours is preferred to each at all."""
    ours, base = summary.references
    columns = [
        column
        for column in summary.columns()
        if any(key == column.key for _, key in (*summary.differences, *summary.preferred))
    ]
    if not columns:
        return None

    def cells(row: Row) -> tuple[str, ...]:
        pair = ((row.name, column.key) for column in columns)
        return (
            row.label,
            *(
                _difference_cell(summary.differences.get(key) or summary.preferred.get(key), column, row.done)
                for key, column in zip(pair, columns, strict=True)
            ),
        )

    against = base.label if base else "the baseline"
    compared = (*summary.differences.values(), *summary.preferred.values())
    tests = sorted({found.test for found in compared if found.p is not None})
    heads = (
        f"{title_of(summary, column)}{' − 50' if column.metric == 'pickscore' else ''}" for column in columns
    )
    sections = tuple(
        Section(section.heading, tuple(row for row in section.rows if any(c != NOTHING for c in row[1:])))
        for section in _sections(summary, cells)
        if not section.words
    )
    notes = [
        f"Difference from {against} over the triplets that both have, with 95% "
        f"interval and two-sided p ({'; '.join(tests)}), not adjusted for the number of comparisons."
        if tests
        else f"Difference from {against} over the triplets that both have. {TOO_FEW}",
        "McNemar's test takes triplets as independent; the intervals are clustered by image.",
    ]
    if ours and summary.preferred:
        notes.append(f"Preference: of {ours.label} over the row, against 50%.")
    if "saturation_shift" in [column.key for column in columns]:
        notes.append("Saturation contrast differs by the same as the shift, and is not listed.")
    return Grid("differences", "Paired differences and tests", ("method", *heads), sections, tuple(notes))


def _neglected(summary: Summary) -> Grid | None:
    """What the failed fills of each row show."""
    judge = summary.judges.get("accuracy")
    threshold = judge.settings.get("threshold", THRESHOLD) if judge else THRESHOLD
    found = {row.name: neglect(summary.run, row.members, row.indices, threshold) for row in summary.measured}
    if not any(found.values()):
        return None

    def cells(row: Row) -> tuple[str, ...]:
        counts = found[row.name]
        if counts is None:
            return (row.label, *[NOTHING] * (1 + len(SHOWN)))
        failed = counts.total()
        return (
            row.label,
            str(failed),
            *(f"{counts[kind]} ({counts[kind] / failed:.0%})" if failed else "0" for kind in SHOWN),
        )

    sections = tuple(section for section in _sections(summary, cells) if not section.words)
    notes = [
        "Of the fills in which the prompt is not found, by the surest detection in the mask's box: of another "
        f"label that the picture has, none above {threshold:g}, or of any other label. The seeds of a row are "
        "counted together.",
    ]
    if judge:
        notes.append(f"Detections: {judge.label}.")
    return Grid("neglect", "What failed fills show", ("method", "failed", *SHOWN), sections, tuple(notes))


def _binned(summary: Summary, column: Column) -> Grid:
    found = zip(*np.unique(summary.bins[summary.scored(column.key)], return_counts=True), strict=True)
    sizes = {int(index): int(size) for index, size in found}

    def cells(row: Row) -> tuple[str, ...]:
        means = ((summary.by_bin.get((row.name, column.key, index)), size) for index, size in sizes.items())
        return (row.label, *(_cell(mean, column, size) for mean, size in means))

    head = ("method", *(f"{bin_name(index)} (n = {size})" for index, size in sizes.items()))
    sections = tuple(section for section in _sections(summary, cells) if not section.words)
    title = f"{title_of(summary, column)} by the mask's share of the picture"
    note = f"95% intervals, clustered by image; none over fewer than {FEWEST} images."
    count = how_many(summary, column)
    return Grid(f"bins-{column.key}", title, head, sections, (note, count) if count else (note,))


def how_many(summary: Summary, column: Column) -> str:
    """A sentence about how many of the list's triplets were scored at all; empty if all were."""
    scored, listed = int(summary.scored(column.key).sum()), len(summary.run.triplets)
    return f"n: triplets with a score, {scored} of the list's {listed}." if scored < listed else ""


def bin_name(index: int) -> str:
    """ "5–10%" for a bin of `eval.stats.MASK_BINS`."""
    low, high = (f"{100 * edge:g}" for edge in MASK_BINS[index : index + 2])
    return f"{low}–{high}%"


def _quoted(published: Published) -> Grid:
    preference = any(row.preference is not None for row in published.rows)
    head = ("method", "CLIP ↑", "accuracy % ↑", *(["PickScore, ours against it % ↓"] if preference else []))
    rows = tuple(
        (
            row.label,
            number(row.clip, 2),
            number(row.accuracy, 1),
            *([NOTHING if row.preference is None else number(row.preference, 1)] if preference else []),
        )
        for row in published.rows
    )
    title = "Quoted, not measured here"
    return Grid("quoted", title, head, (Section(f"Source: {published.source}", rows),), published.notes, True)


def _measured_notes(summary: Summary) -> tuple[str, ...]:
    ours, counted, listed = summary.references[0], summary.counted, len(summary.run.triplets)
    images = len({summary.run.triplets[index].image_id for index in counted})
    count = str(listed) if len(counted) == listed else f"{len(counted)} of the list's {listed}"
    notes = [
        f"{count} triplets from {images} images; n: those with a result.",
        "Means with 95% percentile intervals of a bootstrap over images, with all triplets of an image together."
        if images >= FEWEST
        else f"Means. {TOO_FEW}",
        *_made_with(summary, PAPER_COLUMNS),
    ]
    if summary.common is not None:
        notes.append(f"Only the {summary.common} triplets count that all rows have a result of.")
    if summary.columns(("acc_release",)):
        notes.append(
            "acc hands BGR to the detector, which expects it; acc_release hands it RGB, as the release does, and "
            "is the one to compare with published accuracies."
        )
    if ours and summary.columns(("win_rate",)):
        notes.append(
            f"Ours over it: {ours.label} preferred to the row; mean probability (what the release computes) and "
            "share of wins (what the paper's text says)."
        )
    if any(len(row.members) > 1 for row in summary.rows):
        notes.append(
            "Several seeds are averaged for each triplet; p is then the bootstrap's for accuracy too."
        )
    if any(mean.n < summary.row(name).done for (name, _), mean in summary.means.items()):
        notes.append(
            "(n = ...) in a cell: so many of the row's results have this score; score computes the "
            "others, which are missing or of pictures made again since."
        )
    if missing := _unscored(summary):
        notes.append(f"{missing}; python -m eval score computes them.")
    return tuple(notes)


def _extra_notes(summary: Summary) -> tuple[str, ...]:
    notes = ["Means with 95% intervals, clustered by image.", *_made_with(summary, EXTRA_COLUMNS)]
    if summary.columns(("seam",)):
        notes.append(
            "Seam: gradient across the mask's border over that beside it; 1 is no visible border. Seam "
            "before: the same of the original, more than 1 where the mask follows an outline."
        )
    if summary.columns(("saturation_shift",)):
        notes.append(
            "Saturation shift: mean chroma in the mask, result less original; contrast: result in the mask less "
            "original outside; 0 is as colourful."
        )
    if summary.columns(("psnr",)):
        notes.append("PSNR is that of the mean squared error; ∞: no pixel outside the mask changed.")
    if summary.columns(("S",)):
        notes.append(
            "S: Eq. 9 for a pixel and a word, mean over the steps, in the paper's form for all; guidance is to "
            "lower it. Spread: standard deviation of the final latents in the mask."
        )
    return tuple(notes)


def _made_with(summary: Summary, keys: Sequence[str]) -> list[str]:
    columns: dict[str, list[str]] = {}
    for column in summary.columns(keys):
        columns.setdefault(column.metric, []).append(title_of(summary, column).split(",")[0].rstrip(" ↑↓"))
    judges = {heads[0]: summary.judges[m] for m, heads in columns.items() if m in summary.judges}
    return [" ".join([f"{head}: {judge.label}.", *judge.notes]) for head, judge in judges.items()]


def _unscored(summary: Summary) -> str:
    """Which columns of the paper have no scores, as words; empty if all have."""
    lacking = [COLUMN[key].head for key in PAPER_COLUMNS if not summary.columns((key,))]
    return f"Not scored: {'; '.join(lacking)}" if lacking else ""
