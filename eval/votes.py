"""What the raters of a user study chose: wins with Wilson's intervals, and how far raters agree."""

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from scipy.stats import binomtest

from eval.columns import number
from eval.grids import NOTHING, p_text
from eval.stats import LEVEL
from hdpainter.values import Checked, Range, from_mapping
from ldm.util import UserError, refuse_device

Question = Literal["prompt", "quality"]
TITLES: dict[str, str] = {"prompt": "Prompt alignment", "quality": "Overall quality"}
TIE = "no difference"


@dataclass(frozen=True, kw_only=True)
class Choice(Checked):
    """One answer of a rater; left, right: labels of the methods whose pictures stood there."""

    question: Question
    sample: Annotated[int, Range(0, 2**31)]
    left: str
    right: str
    choice: Literal["left", "right", "tie"]
    seconds: float = 0.0

    @property
    def trial(self) -> tuple[str, int, frozenset[str]]:
        """What was to be judged, the same for all raters."""
        return self.question, self.sample, frozenset((self.left, self.right))

    @property
    def winner(self) -> str:
        """The label that was chosen, or `TIE`."""
        return {"left": self.left, "right": self.right, "tie": TIE}[self.choice]


@dataclass(frozen=True)
class Ballot:
    """The file of one rater."""

    study: str
    rater: str
    complete: bool
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Duel:
    """Two methods, or one and all its rivals (`second` is then empty), under one question."""

    first: str
    second: str
    wins: int
    losses: int
    ties: int

    @property
    def decided(self) -> int:
        """Choices for one of the two."""
        return self.wins + self.losses

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the share of decided choices that the first won; there must be some."""
        found = binomtest(self.wins, self.decided).proportion_ci(LEVEL, "wilson")
        return float(found.low), float(found.high)

    @property
    def p(self) -> float:
        """Of the exact two-sided binomial test against a half."""
        return float(binomtest(self.wins, self.decided).pvalue)


@dataclass(frozen=True)
class Agreement:
    """Of raters who judged the same. pairs: of raters over one trial each. share: of these that chose the same.
    alpha: Krippendorff's α, 1 for full agreement and 0 for chance; None where it is not defined."""

    pairs: int
    share: float | None
    alpha: float | None


def collect(files: Sequence[Path]) -> list[Ballot]:
    """The raters' files, one ballot for each rater: of several files of one, that with the most choices.

    Raises UserError for a file that is damaged, and for files of different studies.
    """
    ballots: dict[str, Ballot] = {}
    first: tuple[str, Path] | None = None
    for path in files:
        ballot = read_ballot(path)
        if first is None:
            first = ballot.study, path
        if ballot.study != first[0]:
            raise UserError(f"{path} is of another study than {first[1]}: collect each study by itself")
        if ballot.rater not in ballots or len(ballots[ballot.rater].choices) < len(ballot.choices):
            ballots[ballot.rater] = ballot
    return list(ballots.values())


def read_ballot(path: Path) -> Ballot:
    """The file that a rater saved. Raises UserError if it is none."""
    refuse_device(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON file: {error}") from None
    wanted = {"study": str, "rater": str, "complete": bool, "answers": list}
    if not isinstance(content, Mapping) or any(
        not isinstance(content.get(key), kind) for key, kind in wanted.items()
    ):
        raise UserError(f"{path} is no file of a study's rater: it needs {', '.join(wanted)}")
    choices = tuple(_choice(values, f"{path}: answer {i}") for i, values in enumerate(content["answers"], 1))
    twice = [trial for trial, count in Counter(choice.trial for choice in choices).items() if count > 1]
    if twice:
        question, sample, labels = twice[0]
        pair = " and ".join(sorted(labels))
        raise UserError(f"{path} answers twice: {question}, sample {sample}, {pair}")
    return Ballot(content["study"], content["rater"], content["complete"], choices)


def _choice(values: Any, where: str) -> Choice:
    needed = ("question", "sample", "left", "right", "choice")
    if not isinstance(values, Mapping) or any(key not in values for key in needed):
        raise UserError(f"{where} needs {', '.join(needed)}")
    choice: Choice = from_mapping(Choice, values, where)
    if choice.left == choice.right:
        raise UserError(f"{where} has {choice.left!r} on both sides")
    return choice


def duels(choices: Iterable[Choice]) -> list[Duel]:
    """Each method against all its rivals, the most successful first, and then each pair."""
    counts: dict[frozenset[str], Counter[str]] = defaultdict(Counter)
    for choice in choices:
        counts[frozenset((choice.left, choice.right))][choice.winner] += 1
    names = sorted({name for pair in counts for name in pair})

    def sum_of(name: str) -> Duel:
        mine = [count for pair, count in counts.items() if name in pair]
        wins, ties = sum(count[name] for count in mine), sum(count[TIE] for count in mine)
        return Duel(name, "", wins, sum(count.total() for count in mine) - wins - ties, ties)

    totals = sorted(
        map(sum_of, names), key=lambda duel: duel.wins / duel.decided if duel.decided else 0.5, reverse=True
    )
    pairs = []
    for one, other in combinations((duel.first for duel in totals), 2):
        if count := counts.get(frozenset((one, other))):
            pairs.append(Duel(one, other, count[one], count[other], count[TIE]))
    return totals + pairs


def agreement(votes: Iterable[tuple[Hashable, Hashable]]) -> Agreement:
    """How far raters agree: votes are (trial, what was chosen), one for each rater that judged the trial.

    α is Krippendorff's for categories, which takes any number of raters for each trial; those that only one
    rater has judged say nothing and are left out.
    """
    units: dict[Hashable, Counter[Hashable]] = defaultdict(Counter)
    for trial, value in votes:
        units[trial][value] += 1
    shared = [unit for unit in units.values() if unit.total() > 1]
    pairs = sum(unit.total() * (unit.total() - 1) for unit in shared) // 2
    if not pairs:
        return Agreement(0, None, None)
    same = sum(count * (count - 1) for unit in shared for count in unit.values()) // 2
    values = sum(shared, Counter())
    n = values.total()
    observed = sum(
        (unit.total() ** 2 - sum(count**2 for count in unit.values())) / (unit.total() - 1) for unit in shared
    )
    expected = (n**2 - sum(count**2 for count in values.values())) / (n - 1)
    return Agreement(pairs, same / pairs, 1 - observed / expected if expected else None)


def markdown(ballots: Sequence[Ballot]) -> str:
    """The figures of a study in Markdown: how often each method won, and how far raters agree."""
    unfinished = sum(not ballot.complete for ballot in ballots)
    choices = [choice for ballot in ballots for choice in ballot.choices]
    lines = [
        "# User study",
        "",
        f"{len(ballots)} raters, {unfinished} of them not finished; {len(choices)} choices.",
    ]
    for question in get_args(Question):
        lines += _section(question, [choice for choice in choices if choice.question == question])
    lines += [
        "",
        f"won: share of the choices for either of the two, those without a preference aside, with Wilson's "
        f"{LEVEL:.0%} interval; p: exact binomial test against a half. Both take choices as independent, though "
        "a rater makes many of them and all raters see the same samples. Agreement: of n pairs of raters who "
        "judged the same, how many chose the same, no difference being a choice; α: Krippendorff's, 0 at chance.",
    ]
    return "\n".join(lines) + "\n"


def _section(question: str, choices: Sequence[Choice]) -> list[str]:
    lines = ["", f"## {TITLES[question]}", ""]
    if not choices:
        return [*lines, "Nobody was asked, or nobody answered."]
    lines += [
        "| method | against | wins | losses | no difference | won % | agreement % | α |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for duel in duels(choices):
        won = NOTHING
        if duel.decided:
            low, high = (number(100 * end, 1) for end in duel.interval)
            won = f"{number(100 * duel.wins / duel.decided, 1)} [{low}, {high}]{p_text(duel.p)}"
        # Of pairs only: chance depends on what there is to choose from.
        of_pair = [choice for choice in choices if {choice.left, choice.right} == {duel.first, duel.second}]
        found = agreement((choice.trial, choice.winner) for choice in of_pair)
        share = NOTHING if found.share is None else f"{number(100 * found.share, 0)} (n = {found.pairs})"
        alpha = NOTHING if found.alpha is None else number(found.alpha, 2)
        cells = (duel.first, duel.second or "all", duel.wins, duel.losses, duel.ties, won, share, alpha)
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    sides = Counter(choice.choice for choice in choices)
    if decided := sides["left"] + sides["right"]:
        lines += ["", f"The left picture was chosen in {sides['left'] / decided:.0%} of the decided choices."]
    return lines
