"""Verdicts on mutants: kept line by line, so that a run goes on where it was, and told as a table."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.mutation.mutants import Mutant

WHY = Path(__file__).with_name("equivalent.yaml")


def key(module: str, mutant: Mutant) -> str:
    """A mutant by its code, so that comments and other lines do not matter."""
    return _hash(module, mutant.code)


def _hash(module: str, code: str) -> str:
    return hashlib.sha256(f"{module}\n{code}".encode()).hexdigest()[:16]


class Results:
    """A JSON Lines file of verdicts, the last of each mutant holds.

    A kill holds while the test that noticed it is as it was; a survivor is tried again on tests that are new.
    """

    def __init__(self, path: Path, resume: bool):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            path.unlink(missing_ok=True)
        self.rows: dict[str, dict[str, Any]] = {}
        self.traced: dict[str, dict[str, Any]] = {}  # by the module's content, see `trace`
        self.read()

    def read(self) -> None:
        """Take over what another process has added to the file."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        for row in map(json.loads, lines):
            (self.traced if "times" in row else self.rows)[row["key"]] = row

    def add(
        self, module: str, mutant: Mutant, found: str, test: str = "", digest: str = "", passed: Iterable = ()
    ) -> None:
        """Append a verdict. passed: the digests of all tests that a survivor survived."""
        row = {
            "key": key(module, mutant),
            "module": module,
            "line": mutant.line,
            "function": mutant.function,
            "change": mutant.change,
            "found": found,
            "test": test,
            "digest": digest,
            "passed": sorted(passed),
        }
        self.rows[row["key"]] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def trace(self, module: str, source: str) -> dict[str, Any]:
        """What the tests of a module as it is have run so far: their times, lines and digests by their names."""
        return self.traced.get(_hash(module, source), {"times": {}, "lines": {}, "digests": {}})

    def keep_trace(self, module: str, source: str, values: dict[str, Any]) -> None:
        """Append it."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": _hash(module, source), **values}) + "\n")

    def left(self, module: str, mutant: Mutant, digests: dict[str, str]) -> list[str] | None:
        """None where the verdict on a mutant holds for these tests (digests by name); else those it survived."""
        row = self.rows.get(key(module, mutant))
        if row is None:
            return []
        if row["found"] == "survived":
            return None if set(digests.values()) <= set(row["passed"]) else row["passed"]
        return None if digests.get(row["test"], "") == row["digest"] else []

    def kills(self, module: str) -> Counter[str]:
        """How many mutants of the module each test has noticed."""
        return Counter(row["test"] for row in self.rows.values() if row["module"] == module and row["test"])


def explained() -> dict[str, dict[str, str]]:
    """Why survivors are right too, by module and "function: change"."""
    return yaml.safe_load(WHY.read_text(encoding="utf-8")) or {}


def table(results: Results, mutants: dict[str, list[Mutant]]) -> tuple[str, int]:
    """(the scores by module and every survivor with its explanation as Markdown, how many have none).

    mutants: all of each module; those without a verdict are not counted as tried.
    """
    why, unexplained = explained(), 0
    lines = ["| module | mutants | tried | killed | survived | score |", "|---|---|---|---|---|---|"]
    survivors: list[str] = []
    total: Counter[str] = Counter()
    for module, known in mutants.items():
        rows = [row for one in known if (row := results.rows.get(key(module, one)))]
        alive = [row for row in rows if row["found"] == "survived"]
        lines.append(_row(f"`{module}`", len(known), len(rows), len(alive)))
        total.update(mutants=len(known), tried=len(rows), alive=len(alive))
        for row in alive:
            reason = why.get(module, {}).get(f"{row['function']}: {row['change']}", "")
            unexplained += not reason
            survivors.append(_survivor(row, reason or "**not explained**"))
    lines.append(_row("all", total["mutants"], total["tried"], total["alive"]))
    return "\n".join([*lines, "", "Survivors:", "", *survivors]) + "\n", unexplained


def _row(name: str, mutants: int, tried: int, alive: int) -> str:
    killed = tried - alive
    return f"| {name} | {mutants} | {tried} | {killed} | {alive} | {killed / max(tried, 1):.1%} |"


def _survivor(row: dict[str, Any], reason: str) -> str:
    return f"- `{row['module']}`, `{row['function'] or 'module'}`: `{row['change']}`. {reason}"
