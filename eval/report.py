"""`python -m eval report`: one HTML page with a run's tables, charts, gallery and failures.

The page needs no other file and no network, and forbids itself to load anything.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval import tables
from eval.charts import Bar, bar_chart
from eval.columns import PAPER_COLUMNS, Column, number
from eval.gallery import Failures, Gallery
from eval.grids import GROUPS, Grid, fewer, grids, how_many, interval, title_of
from eval.published import TABLES
from eval.stats import SHOW_AFTER, Mean
from eval.summary import Row, Summary
from hdpainter.files import write_text
from ldm.util import UserError

ASSETS = Path(__file__).parent / "assets"
MEGABYTES = 20


def add_parser(subparsers: Any) -> None:
    """Add the command `report`."""
    parser = subparsers.add_parser(
        "report", help="write a run's tables, charts and pictures as one HTML page"
    )
    parser.set_defaults(run=run)
    tables.add_arguments(parser)
    parser.add_argument("--out", type=Path, help="file to write (default: RUN/report.html)")
    parser.add_argument(
        "--max-mb",
        type=float,
        default=MEGABYTES,
        help=f"size that the page's pictures may have (default: {MEGABYTES})",
    )


def run(args: argparse.Namespace) -> int:
    """Write the page and say where."""
    if not args.max_mb > 0:  # nor nan
        raise UserError(f"--max-mb must be positive, not {args.max_mb:g}")
    summary, published = tables.load(args)
    out = args.out or args.folder / "report.html"
    print(write_text(out, page(summary, published, args.max_mb)))
    return 0


def page(summary: Summary, published: str | None = None, max_mb: float = MEGABYTES) -> str:
    """The report as HTML. max_mb: megabytes that the pictures may take; samples that do not fit are left out,
    which the page says."""
    figures = TABLES[published] if published else None
    made = {grid.key: grid for grid in grids(summary, figures)}
    gallery = Gallery(summary)
    failures = gallery.failures()
    samples = _fitting(gallery, failures, max_mb)
    parts = {
        "title": escape(figures.title if figures else "Results"),
        "about": "".join(f"<li><b>{escape(k)}</b> {escape(v)}</li>" for k, v in tables.provenance(summary)),
        "tables": "".join(
            _table(made[key])
            for key in ("measured", "beyond", "differences", "neglect", "quoted")
            if key in made
        ),
        "charts": "".join(_charts(summary)),
        "bins": "".join(_table(grid) for key, grid in made.items() if key.startswith("bins")) or _NOTHING,
        "categories": _categories(summary),
        "shown": escape(_shown(summary, len(samples), max_mb)),
        "data": json_within_html(_data(gallery, samples, failures)),
        "css": (ASSETS / "report.css").read_text(encoding="utf-8"),
        "js": (ASSETS / "report.js").read_text(encoding="utf-8"),
    }
    template = (ASSETS / "report.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


_NOTHING = '<p class="note">Not scored.</p>'


def _shown(summary: Summary, shown: int, max_mb: float) -> str:
    """How many samples are on the page, in words."""
    total, listed = len(summary.counted), len(summary.run.triplets)
    if shown < total:
        return (
            f"{shown} of {total} samples are on this page, whose pictures may take {max_mb:g} MB: first the "
            "failure cases below, then a random choice. The tables count all of them."
        )
    if total < listed:
        return f"All {total} samples that count are on this page; the list has {listed}."
    return f"All {total} samples are on this page."


def _fitting(gallery: Gallery, failures: Sequence[Failures], max_mb: float) -> list[dict[str, Any]]:
    """The samples that fit into `max_mb`, in order of their index; always one, if there is any."""
    samples: list[dict[str, Any]] = []
    taken, limit = 0, max_mb * 1e6
    with tqdm(
        desc="pictures", total=limit, leave=False, delay=SHOW_AFTER, disable=None, unit="B", unit_scale=True
    ) as bar:
        for index in gallery.choose(failures):
            sample = gallery.sample(index)
            size = len(json.dumps(sample))
            if samples and taken + size > limit:
                break
            samples.append(sample)
            taken += size
            bar.update(size)
    return sorted(samples, key=lambda sample: sample["index"])


def _data(
    gallery: Gallery, samples: Sequence[dict[str, Any]], failures: Sequence[Failures]
) -> dict[str, Any]:
    there = {sample["index"] for sample in samples}
    names = [row.name for row in gallery.rows]
    return {
        "methods": [
            {"name": row.name, "label": gallery.label(row), "group": row.group} for row in gallery.rows
        ],
        "ours": names.index(gallery.ours) if gallery.ours in names else None,
        "baseline": names.index(gallery.baseline) if gallery.baseline in names else None,
        "samples": list(samples),
        "mini": gallery.mini,
        "failures": [
            {**asdict(kind), "indices": [i for i in kind.indices if i in there]} for kind in failures
        ],
    }


def json_within_html(values: Any) -> str:
    """JSON that may stand within a script element, whatever words are in it."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _table(grid: Grid) -> str:
    width = len(grid.head)
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in grid.head)
    bodies = []
    for section in grid.sections:
        fold = f'<button type="button" aria-expanded="true">{escape(section.heading)}</button>'
        heading = f'<tr><th colspan="{width}" scope="rowgroup">{fold}</th></tr>'
        rows = "".join(_table_row(row, grid.head) for row in section.rows)
        bodies.append(f"<tbody>{heading}{rows}</tbody>")
    notes = "".join(f"<li>{escape(note)}</li>" for note in grid.notes)
    content = f"<thead><tr>{head}</tr></thead>{''.join(bodies)}"
    return (
        f'<section class="{"quoted" if grid.quoted else "measured"}" id="{escape(grid.key)}">'
        f"<h3>{escape(grid.title)}</h3>{_scrolling(grid.title, content)}"
        f'<ul class="note">{notes}</ul></section>'
    )


def _table_row(row: Sequence[str], head: Sequence[str]) -> str:
    """data-label: what the column is, for a phone, where the cells of a row stand below each other."""
    *cells, last = row[1:]
    span = len(head) - len(row) + 1
    ending = f'colspan="{span}" class="words"' if span > 1 else f'data-label="{escape(head[-1])}"'
    texts = "".join(
        f'<td data-label="{escape(column)}">{escape(cell)}</td>'
        for column, cell in zip(head[1:], cells, strict=False)
    )
    texts += f"<td {ending}>{escape(last)}</td>"
    return f'<tr><th scope="row">{escape(row[0])}</th>{texts}</tr>'


def _scrolling(name: str, content: str, kind: str = "") -> str:
    """A table that scrolls by itself where it is wider than the page, by keyboard too."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">'
        f'<table class="{kind}">{content}</table></div>'
    )


def _charts(summary: Summary) -> list[str]:
    charts = []
    for column in summary.columns((*PAPER_COLUMNS, "seam", "saturation_shift")):
        title = title_of(summary, column)
        found = [
            (row, mean) for row in summary.measured if (mean := summary.means.get((row.name, column.key)))
        ]
        limits = (0.0, 100.0) if column.unit == "%" else None
        charts.append(_figure(title, [_bar(summary, column, row, mean) for row, mean in found], limits))
        found = [
            (row, difference)
            for row in summary.measured
            if (difference := summary.differences.get((row.name, column.key)))
        ]
        if found:
            assert summary.baseline is not None, "there are no differences without it"
            base = summary.row(summary.baseline).label
            bars = [_bar(summary, column, row, mean, sign=True) for row, mean in found]
            charts.append(_figure(f"{title}: difference from {base}", bars))
    return charts or [_NOTHING]


def _bar(summary: Summary, column: Column, row: Row, mean: Mean, sign: bool = False) -> Bar:
    kind = {summary.ours: "ours", summary.baseline: "baseline"}.get(row.name, row.group)
    plus = "+" if sign and mean.value > 0 else ""
    text = f"{plus}{number(mean.value, column.digits)}{interval(mean, column.digits)}"
    return Bar(row.label, mean.value, mean.low, mean.high, text, kind, GROUPS[row.group])


def _figure(title: str, bars: Sequence[Bar], limits: tuple[float, float] | None = None) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{bar_chart(bars, limits)}</figure>"


def _categories(summary: Summary) -> str:
    """Accuracy by what was asked for, one row for each category."""
    column = next(iter(summary.columns(("acc", "acc_release"))), None)
    if column is None:
        return _NOTHING
    rows = [row for row in summary.measured if column.key in row.values]
    scored = summary.scored(column.key)
    counts = Counter(triplet.prompt for triplet in summary.run.triplets if scored[triplet.index])
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(name)}</button></th>'
        for name in ("category", "n", *(row.label for row in rows))
    )
    body = []
    for category, count in sorted(counts.items()):
        named = (
            f'<tr><th scope="row">{escape(category)}</th><td data-label="n" data-value="{count}">{count}</td>'
        )
        cells = (
            _share(row.label, summary.by_category.get((row.name, column.key, category)), count)
            for row in rows
        )
        body.append(f"{named}{''.join(cells)}</tr>")
    content = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    title = f"{title_of(summary, column)} by category"
    note = f'<p class="note">{escape(words)}</p>' if (words := how_many(summary, column)) else ""
    return f"<h3>{escape(title)}</h3>{_scrolling(title, content, 'sortable shares')}{note}"


def _share(label: str, mean: Mean | None, count: int) -> str:
    """The cell of a method's share in a category of so many samples."""
    named = f'<td data-label="{escape(label)}"'
    if mean is None:
        return f'{named} data-value="-1">–</td>'
    more = escape(interval(mean, 0) + fewer(mean, count))
    return (
        f'{named} data-value="{mean.value:.3f}" style="--share-end:{mean.value:.1f}%">{number(mean.value, 0)}'
        f"<small>{more}</small></td>"
    )
