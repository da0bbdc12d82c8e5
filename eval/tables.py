"""`python -m eval table`: a run's numbers as Markdown, CSV and LaTeX, and its samples one by one."""

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from eval.columns import COLUMN
from eval.config import Config, Entry
from eval.grids import Grid, bin_name, grids
from eval.provenance import provenance
from eval.published import TABLES, Published
from eval.rows import write_rows
from eval.runs import Run
from eval.stats import REPEATS, Mean
from eval.summary import PREFERENCES, Row, Summary, group_of, summarise
from hdpainter.files import write_text
from ldm.util import UserError


def add_parser(subparsers: Any) -> None:
    """Add the command `table`."""
    parser = subparsers.add_parser("table", help="write a run's tables as Markdown, CSV and LaTeX")
    parser.set_defaults(run=run)
    add_arguments(parser)
    parser.add_argument("--out", type=Path, help="folder for the files (default: RUN/tables)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that `table` and `report` share."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of results")
    parser.add_argument(
        "--config",
        help="only the methods of this config, a YAML file or the name of one in configs/eval "
        "(default: all that are in the folder)",
    )
    parser.add_argument(
        "--published",
        choices=sorted(TABLES),
        help="published table to print beside the measured one (default: as the run's config says)",
    )
    parser.add_argument(
        "--ours",
        help="method that PickScore compares the others with (default: as the run's config says, or hd-painter)",
    )
    parser.add_argument(
        "--baseline",
        help="method that differences are from (default: as the run's config says, or stable-inpainting)",
    )
    parser.add_argument(
        "--common", action="store_true", help="count only the samples that all methods have results of"
    )
    parser.add_argument(
        "--repeats", type=int, default=REPEATS, help=f"bootstrap draws (default: {REPEATS:,})"
    )


def load(args: argparse.Namespace) -> tuple[Summary, str | None]:
    """The summary that the arguments of `add_arguments` ask for, and the name of the published table or
    None."""
    if args.repeats < 100:
        raise UserError(f"--repeats {args.repeats} is too few for an interval; give at least 100")
    opened, methods, absent = Run.open(args.folder), None, []
    given: Mapping[str, Any] = opened.info
    if args.config:
        config = Config.load(args.config)
        entries, given = config.entries(), config.for_tables
        methods = [entry.name for entry in entries if entry.name in opened.methods]
        absent = [_absent(entry, args.config) for entry in entries if entry.name not in methods]
        if not methods:
            raise UserError(
                f"{opened.path} has no method of {args.config}; it has {', '.join(opened.methods)}"
            )
    name = args.published or given.get("published")
    if name is not None and (not isinstance(name, str) or name not in TABLES):
        raise UserError(f"the config has published: {name!r}; there is {' and '.join(sorted(TABLES))}")
    ours, baseline = args.ours or given.get("ours"), args.baseline or given.get("baseline")
    summary = summarise(
        opened,
        methods,
        absent=absent,
        common=args.common,
        ours=ours,
        baseline=baseline,
        repeats=args.repeats,
    )
    return summary, name


def _absent(entry: Entry, config: str) -> Row:
    """The row of a method that the run does not know yet."""
    reason = entry.why_not or f"not made yet; python -m eval generate --config {config} makes it"
    return Row(entry.name, entry.label, group_of(entry.kind), (), missing=reason)


def run(args: argparse.Namespace) -> int:
    """Write the tables and say where."""
    summary, name = load(args)
    out = args.out or args.folder / "tables"
    for path in write_tables(summary, out, name, Path(args.config).stem if args.config else "table"):
        print(path)
    return 0


def write_tables(
    summary: Summary, out: Path, published: str | None = None, name: str = "table"
) -> list[Path]:
    """Write NAME.md, NAME.tex, NAME.csv (all numbers, unrounded), NAME-quoted.csv and NAME-samples.csv into
    `out`.

    NAME is `published` ("table1", "table2"), or `name`. Each file appears whole or not at all.
    """
    figures = TABLES[published] if published else None
    name, made = published or name, grids(summary, figures)
    title = figures.title if figures else "Results"
    written = [
        write_text(out / f"{name}.md", markdown(title, provenance(summary), made)),
        write_text(out / f"{name}.tex", latex(made)),
        write_csv(out / f"{name}.csv", number_rows(summary)),
        write_csv(out / f"{name}-samples.csv", sample_rows(summary)),
    ]
    return written + ([write_csv(out / f"{name}-quoted.csv", quoted_rows(figures))] if figures else [])


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows whose keys may differ; the head has all of them, and what a row lacks is an empty cell."""
    write_rows(path, list(dict.fromkeys(key for row in rows for key in row)), rows)
    return path


def markdown(title: str, about: Iterable[tuple[str, str]], tables: Sequence[Grid]) -> str:
    """The tables as a Markdown document."""
    lines = [f"# {title}", "", ", ".join(f"{key} {_markdown(value)}" for key, value in about)]
    for grid in tables:
        width = len(grid.head)
        lines += ["", f"## {grid.title}", ""]
        lines += [_markdown_row(grid.head), "|" + "---|" * width]
        sections = [section for section in grid.sections if not section.words]
        for section in sections:
            if len(sections) > 1 or grid.quoted:
                lines.append(_markdown_row((f"**{_markdown(section.heading)}**",), width, escape=False))
            lines += [_markdown_row(row) for row in section.rows]
        # Below the table, as Markdown has no cells that span columns
        words = [row for section in grid.sections if section.words for row in section.rows]
        lines += ["", *(f"- {_markdown(name)}: {_markdown(why)}" for name, why in words)]
        lines += [f"- {_markdown(note)}" for note in grid.notes]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str], width: int = 0, escape: bool = True) -> str:
    texts = [_markdown(cell) if escape else cell for cell in cells] + [""] * (width - len(cells))
    return f"| {' | '.join(texts)} |"


def _markdown(text: str) -> str:
    plain = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|*`])", r"\\\1", plain)


_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "−": "$-$",
    "±": r"$\pm$",
    "∞": r"$\infty$",
}


def _latex(text: str) -> str:
    plain = "".join(_LATEX.get(c, c) for c in " ".join(str(text).split()))
    return re.sub("-(?=-)", "-{}", plain).replace("–", "--")  # the hyphens of an option are no dash


def latex(tables: Sequence[Grid]) -> str:
    r"""The tables as LaTeX to \input; needs the packages booktabs and graphicx. A table that is wider than the
    line is scaled down to it."""
    lines = ["% needs \\usepackage{booktabs,graphicx}"]
    for grid in tables:
        width = len(grid.head)
        lines += [
            r"\begin{table}[t]",
            r"\centering\small",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{"
            f"\\begin{{tabular}}{{l{'c' * (width - 1)}}}",
            r"\toprule",
            " & ".join(map(_latex, grid.head)) + r" \\",
        ]
        for section in grid.sections:
            lines += [
                r"\midrule",
                f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{_latex(section.heading)}}}}} \\\\",
            ]
            for row in section.rows:
                span = width - len(row) + 1
                last = _latex(row[-1]) if span == 1 else f"\\multicolumn{{{span}}}{{l}}{{{_latex(row[-1])}}}"
                start = "{}" if row[0][:1] in ("[", "*") else ""  # the \\ before would take these for its own
                lines.append(start + " & ".join([*map(_latex, row[:-1]), last]) + r" \\")
        lines += [
            r"\bottomrule",
            r"\end{tabular}}",
            f"\\caption{{{_latex(grid.title)}. {_latex(' '.join(grid.notes))}}}",
            f"\\label{{tab:{grid.key}}}",
            r"\end{table}",
            "",
        ]
    return "\n".join(lines)


def number_rows(summary: Summary) -> list[dict[str, Any]]:
    """Every measured number, unrounded, one row each: means of all, of a mask bin or of a category, and
    differences; methods that were not run with the reason and no number. `ours` is the method that is, or is not,
    preferred to the row's, where the number is of preferences."""
    tables: list[tuple[str, str | None, Mapping[tuple[str, str, str], Mean]]] = [
        ("mean", "", {(*key, ""): mean for key, mean in summary.means.items()}),
        ("difference", summary.baseline, {(*key, ""): mean for key, mean in summary.differences.items()}),
        ("preference over", "50%", {(*key, ""): mean for key, mean in summary.preferred.items()}),
        ("mean", "", {(n, c, bin_name(b)): mean for (n, c, b), mean in summary.by_bin.items()}),
        ("mean", "", summary.by_category),
    ]
    rows = []
    for kind, against, found in tables:
        for (name, column, part), mean in found.items():
            rows.append(
                {
                    "method": name,
                    "label": summary.row(name).label,
                    "group": summary.row(name).group,
                    "column": column,
                    "made_with": summary.label(COLUMN[column].metric),
                    "kind": kind,
                    "against": against,
                    "ours": summary.ours if COLUMN[column].metric == "pickscore" else "",
                    "part": part,
                    **asdict(mean),
                }
            )
    for row in summary.rows:
        if row.missing is not None:
            rows.append({"method": row.name, "label": row.label, "group": row.group, "not_run": row.missing})
    return rows


def sample_rows(summary: Summary) -> list[dict[str, Any]]:
    """One row for each triplet and method that has a result, each seed for itself: triplet, method, seed and
    all scores as they were stored, with "(mini)" in the names of those that a miniature made."""
    run, rows = summary.run, []
    for method in [member for row in summary.rows for member in row.members]:
        manifest = run.manifest(method)
        folder = run.score_path(method, "any").parent
        scores = {
            _score_name(summary, path.stem, name): column
            for path in sorted(folder.glob("*.csv"))
            for name, column in (run.scores(method, path.stem) or {}).items()
        }
        for index in run.done(method):
            values = {name: _plain(column[index]) for name, column in scores.items()}
            about = {"method": method, "seed": manifest[index].get("seed")}
            rows.append({**asdict(run.triplets[index]), **about, **values})
    return rows


def _score_name(summary: Summary, metric: str, column: str) -> str:
    """What a metric's column is called among those of all others: the judges of preference name theirs alike."""
    name = f"{metric}.{column}" if metric in PREFERENCES else column
    return f"{name} (mini)" if summary.mini(metric) else name


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value


def quoted_rows(published: Published) -> list[dict[str, Any]]:
    """The published figures, each with its source."""
    return [{**asdict(row), "source": published.source} for row in published.rows]
