"""`python -m eval study`: a user study as one HTML page, and what its raters chose.

    python -m eval study --runs outputs/mini-other --out outputs/study     # study.html, to be given to raters
    python -m eval study --collect choices-*.json                          # the files that they send back

Pairs of results of the same sample, blind: which method made which picture is not shown, and the page draws order
and sides anew for each rater. Each pair is judged twice, in separate rounds: by prompt alignment and by overall
quality, the two questions of the paper's appendix.
"""

import argparse
import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from eval.gallery import outlined, thumbnail
from eval.report import ASSETS, json_within_html
from eval.runs import Run
from eval.summary import group_of
from hdpainter.files import digest, write_text
from ldm.util import UserError

QUESTIONS = {
    "prompt": "In which picture is the filled part more like “{prompt}”?",
    "quality": "Which picture looks better overall?",
}
SAMPLES, SIZE, QUALITY = 20, 512, 92  # pixels on the longer side of a picture, and its WebP's quality
SECONDS = 6  # about how long a choice takes


@dataclass(frozen=True)
class Contender:
    """A method of a run that takes part: its name in the run, and the one that tables print."""

    run: Run
    method: str
    label: str


def add_parser(subparsers: Any) -> None:
    """Add the command `study`."""
    parser = subparsers.add_parser("study", help="make a user study's page, or count what its raters chose")
    parser.set_defaults(run=run)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folders of results, RUN for all methods in it or RUN/METHOD for one; all of the same samples",
    )
    what.add_argument("--collect", nargs="+", type=Path, metavar="FILE", help="files that raters sent back")
    parser.add_argument("--out", type=Path, help="folder for the page; with --collect, for the tables too")
    parser.add_argument("--ours", metavar="LABEL", help="only pairs with this method (default: all pairs)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"samples shown (default: {SAMPLES})")
    parser.add_argument("--seed", type=int, default=0, help="which samples are drawn (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Write the page and say where, or print the figures."""
    if args.collect:
        from eval.votes import collect, markdown  # scipy takes a second

        text = markdown(collect(args.collect))
        print(text if args.out is None else write_text(args.out / "study.md", text))
        return 0
    if args.out is None:
        raise UserError("--out is missing: name a folder for the page")
    if args.samples < 1:
        raise UserError(f"--samples is {args.samples}: give 1 or more")
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}: give 0 or more")
    contestants = contenders(args.runs)
    print(write_text(args.out / "study.html", page(contestants, args.samples, args.seed, args.ours)))
    return 0


def contenders(folders: Sequence[Path]) -> list[Contender]:
    """The methods of the folders, each RUN or RUN/METHOD; of a RUN, all that have results and are no bounds.

    Raises UserError where a folder has no results, or not those of the others' triplets, and for fewer than two.
    """
    found: list[tuple[Run, str]] = []
    runs: dict[Path, Run] = {}
    for folder in folders:
        single = not (folder / "run.json").is_file() and (folder.parent / "run.json").is_file()
        path = folder.parent if single else folder
        if (opened := runs.get(path.resolve())) is None:
            opened = runs[path.resolve()] = Run.open(path)
        if single:
            opened.method(folder.name)  # says if there is none
            names = [folder.name]
        else:
            infos = ((name, opened.method(name)) for name in opened.methods)
            names = [name for name, info in infos if group_of(info.get("kind", "")) == "method"]
            names = [name for name in names if opened.done(name)]
        if not any(opened.done(name) for name in names):
            raise UserError(f"{folder} has no results: python -m eval generate makes them")
        found += [(opened, name) for name in names if (opened, name) not in found]

    first = found[0][0]
    for other in runs.values():
        if other.triplets != first.triplets or other.size != first.size:
            raise UserError(f"{other.path} has other triplets than {first.path}: a study compares the same")
    if len(found) < 2:
        raise UserError(f"a study compares two methods or more; {folders[0]} has one")
    labels = [opened.label(name) for opened, name in found]
    return [
        Contender(opened, name, label if labels.count(label) == 1 else f"{label} ({opened.path.name})")
        for (opened, name), label in zip(found, labels, strict=True)
    ]


def page(
    contestants: Sequence[Contender], samples: int = SAMPLES, seed: int = 0, ours: str | None = None
) -> str:
    """The study as HTML that needs nothing else. ours: a label or a method's name, for pairs with it only.

    The methods' labels are in it encoded, so that nobody reads them by accident. Raises UserError where the
    methods have too few samples in common, or `ours` is none of them.
    """
    run, labels = contestants[0].run, [one.label for one in contestants]
    if len(set(labels)) < len(labels):
        raise UserError(
            f"two methods have one label, of {', '.join(labels)}: their votes could not be told apart"
        )
    pairs = list(combinations(range(len(labels)), 2))
    if ours is not None:
        chosen = [i for i, one in enumerate(contestants) if ours in (one.label, one.method)]
        if len(chosen) != 1:
            raise UserError(f"--ours {ours!r} names {len(chosen)} methods of {', '.join(labels)}; name one")
        pairs = [pair for pair in pairs if chosen[0] in pair]
    common = sorted(set.intersection(*(set(one.run.done(one.method)) for one in contestants)))
    if len(common) < samples:
        raise UserError(
            f"the methods share results of {len(common)} samples, not {samples}: give --samples fewer"
        )
    drawn = sorted(np.random.default_rng(seed).choice(common, samples, replace=False).tolist())
    shown = [_sample(contestants, index) for index in drawn]
    identity = {
        "triplets": [asdict(run.triplets[index]) for index in drawn],
        "pictures": [one["results"] for one in shown],
        "labels": labels,
        "pairs": pairs,
    }
    data = {
        "id": digest(identity)[:16],
        "methods": base64.b64encode(json.dumps(labels).encode()).decode(),
        "questions": [{"key": key, "text": text} for key, text in QUESTIONS.items()],
        "pairs": pairs,
        "samples": shown,
    }
    count = len(QUESTIONS) * len(pairs) * samples
    asked = (text.replace("“{prompt}”", "what was asked for") for text in QUESTIONS.values())
    parts = {
        "questions": "".join(f"<li>{escape(text)}</li>" for text in asked),
        "count": str(count),
        "minutes": str(max(1, round(count * SECONDS / 60))),
        "data": json_within_html(data),
        "css": (ASSETS / "study.css").read_text(encoding="utf-8"),
        "js": (ASSETS / "study.js").read_text(encoding="utf-8"),
    }
    template = (ASSETS / "study.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _sample(contestants: Sequence[Contender], index: int) -> Mapping[str, Any]:
    run = contestants[0].run
    triplet = run.triplets[index]
    pictures = [one.run.result(one.method, index) for one in contestants]
    return {
        "index": index,
        "prompt": triplet.prompt,
        "input": thumbnail(outlined(run, triplet), SIZE, QUALITY),
        "results": [thumbnail(picture, SIZE, QUALITY) for picture in pictures if picture is not None],
    }
