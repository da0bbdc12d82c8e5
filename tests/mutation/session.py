"""One collected pytest session, forked for every mutant: what costs time is done once."""

import hashlib
import inspect
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from tests.mutation.forks import Fork, fork
from tests.mutation.live import ROOT, replace
from tests.mutation.mutants import Mutant
from tests.mutation.results import Results

ARGUMENTS = (
    "-qq",
    "-s",
    "--no-header",
    "--no-summary",
    "-p",
    "no:cacheprovider",
    "-o",
    "tmp_path_retention_policy=none",
)


@dataclass
class Verdict:
    """What the tests made of a mutant. found: "killed", "timeout" or "survived". test: which one noticed it.
    passed: the digests of the tests that did not."""

    mutant: Mutant
    found: str
    test: str = ""
    passed: list[str] = field(default_factory=list)


def digest(item: Any) -> str:
    """A test's name and source, in short."""
    return hashlib.sha256(f"{item.nodeid}\n{inspect.getsource(item.function)}".encode()).hexdigest()[:12]


def run_items(items: Sequence[Any], say: Callable[[str], None]) -> bool:
    """Run tests until one fails; whether none did."""
    for item, following in zip(items, [*items, None][1:], strict=True):
        say(item.nodeid)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if item.session.testsfailed:
            return False
    return True


class Trace:
    """Which lines of one file run."""

    def __init__(self, module: str):
        self.path, self.lines = str(ROOT / module), set[int]()

    def taken(self) -> set[int]:
        """The lines since the last call."""
        lines, self.lines = self.lines, set()
        return lines

    def __enter__(self) -> "Trace":
        sys.settrace(self._call)
        threading.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename == self.path else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.lines.add(frame.f_lineno)
        return self._line


class Session:
    """A pytest plugin: collects the tests of a module, runs them as they are, then on each mutant.

    done: digests by mutant's code of the tests that it survived already. judged: called with each verdict.
    Likely killers come first: kills so far by the time that the test takes.
    """

    def __init__(
        self,
        module: str,
        mutants: Sequence[Mutant],
        kills: Counter[str],
        jobs: int,
        seconds: float,
        known: Callable[[Mutant, dict[str, str]], list[str] | None],
        judged: Callable[[Verdict, dict[str, str]], None],
        results: Results,
    ):
        self.module, self.mutants, self.kills, self.jobs = module, mutants, kills, jobs
        self.seconds, self.known, self.judged, self.results = seconds, known, judged, results
        self.warming, self.trace, self.parent = False, Trace(module), os.getppid()
        self.times: dict[str, float] = {}
        self.lines: dict[str, set[int]] = {}  # of tests and of fixtures that outlive them
        self.cold: list[tuple[Mutant, list[str]]] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: Any) -> bool:
        """All of it, in the place of the usual loop."""
        items = session.items
        digests = {item.nodeid: digest(item) for item in items}
        todo = [(one, passed) for one in self.mutants if (passed := self.known(one, digests)) is not None]
        if not todo:
            return True
        self._as_it_is(items, digests)
        self._warm(items)
        running: dict[int, tuple[Fork, Mutant, list[str]]] = {}
        waiting = iter(todo)
        while True:
            while len(running) < self.jobs and (entry := next(waiting, None)):
                mutant, passed = entry
                if not mutant.function:
                    self.cold.append(entry)
                    continue
                chosen = [item for item in self._order(items, mutant) if digests[item.nodeid] not in passed]
                limit = self.seconds + 5 * sum(self.times[item.nodeid] for item in chosen)
                work = self._work(mutant, chosen)
                child = fork(work, limit)
                running[child.pid] = child, mutant, [*passed, *(digests[item.nodeid] for item in chosen)]
            if not running:
                break
            if os.getppid() != self.parent:  # stopped: nobody waits for verdicts
                for child, *_ in running.values():
                    child.kill()
                raise SystemExit("stopped")
            for pid, (child, mutant, passed) in list(running.items()):
                if found := child.finished():
                    del running[pid]
                    if found == "killed" and child.said.startswith("no function"):
                        self.cold.append((mutant, []))
                        continue
                    self.judge(Verdict(mutant, found, child.said, passed), digests)
            time.sleep(0.01)
        killers = [item for item in self._order(items, None) if self.kills[item.nodeid]]
        if killers and any(mutant.function for mutant, _ in todo):
            last = fork(lambda say: run_items(killers, say), 3600)
            while not (found := last.finished()):
                time.sleep(0.05)
            if found != "survived":
                raise SystemExit(f"{self.module}: in another order {last.said} fails as it is")
        return True

    def judge(self, verdict: Verdict, digests: dict[str, str]) -> None:
        """Count a kill and hand the verdict on."""
        if verdict.found == "survived":
            verdict.test = ""
        else:
            verdict.passed = []
            self.kills[verdict.test] += 1
        self.judged(verdict, digests)

    def _order(self, items: Sequence[Any], mutant: Mutant | None) -> list[Any]:
        """The tests that run the mutant's lines, likely killers first."""
        if mutant:
            items = [item for item in items if self.lines[item.nodeid] & set(mutant.lines)]
        score = {
            item.nodeid: (self.kills[item.nodeid] + 0.5) / (self.times[item.nodeid] + 0.2) for item in items
        }
        return sorted(items, key=lambda item: -score[item.nodeid])

    def _work(self, mutant: Mutant, items: Sequence[Any]) -> Callable[[Callable[[str], None]], bool]:
        def work(say: Callable[[str], None]) -> bool:
            try:
                replace(self.module, mutant.code, mutant.function)
            except (LookupError, ValueError):
                say("no function")
                return False
            return run_items(items, say)

        return work

    def _as_it_is(self, items: Sequence[Any], digests: dict[str, str]) -> None:
        """The tests of the module without a change: their times, and what each of them runs. In a child."""
        source = (ROOT / self.module).read_text(encoding="utf-8")
        known = self.results.trace(self.module, source)
        self.times.update(known["times"])
        self.lines = {name: set(lines) for name, lines in known["lines"].items()}
        new = [item for item in items if known["digests"].get(item.nodeid) != digests[item.nodeid]]
        if new:
            self._run_as_it_is(new)
            found = {name: sorted(lines) for name, lines in self.lines.items()}
            values = {"times": self.times, "lines": found, "digests": known["digests"] | digests}
            self.results.keep_trace(self.module, source, values)
        for item in items:
            for name in self._shared(item):
                self.lines[item.nodeid] |= self.lines.get(name, set())

    def _run_as_it_is(self, items: Sequence[Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.json"

            def work(say: Callable[[str], None]) -> bool:
                with self.trace:
                    whole = run_items(items, say)
                found = {name: sorted(lines) for name, lines in self.lines.items()}
                report.write_text(json.dumps({"times": self.times, "lines": found}), encoding="utf-8")
                return whole

            child = fork(work, 7200)
            while not (found := child.finished()):
                time.sleep(0.05)
            if found != "survived":
                raise SystemExit(f"{self.module}: {child.said} fails as it is")
            content = json.loads(report.read_text(encoding="utf-8"))
        self.times = content["times"]
        self.lines = {name: set(lines) for name, lines in content["lines"].items()}

    def _warm(self, items: Sequence[Any]) -> None:
        """Set up what lives as long as the session and does not run the module, for all children."""
        self.warming, seen = True, set[str]()
        only_session = SimpleNamespace(listchain=lambda: items[0].listchain()[:1])  # all else is torn down
        for item in items:
            names = self._shared(item)
            if names - seen and not any(self.lines.get(name) for name in names):
                seen |= names
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=only_session)
        self.warming = False

    def _shared(self, item: Any) -> set[str]:
        """The fixtures of a test that outlive it."""
        found = item._fixtureinfo.name2fixturedefs
        return {
            f"{one.baseid}::{name}" for name in item.fixturenames for one in found.get(name, ())
            if one.scope != "function"
        }  # fmt: skip

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: Any) -> bool | None:
        """While warming, tests have their fixtures and do nothing."""
        return True if self.warming else None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> Iterator[None]:
        """Time a test, and note what it ran."""
        self.trace.taken()
        started = time.process_time()
        result = yield
        if not self.warming:
            self.times[item.nodeid] = time.process_time() - started
            self.lines.setdefault(item.nodeid, set()).update(self.trace.taken())
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[Any]:
        """Note what a fixture ran that outlives its test."""
        before = self.trace.taken()
        result = yield
        mine = self.trace.taken()
        if fixturedef.scope != "function":
            self.lines.setdefault(f"{fixturedef.baseid}::{fixturedef.argname}", set()).update(mine)
        self.trace.lines = before | mine
        return result


class Ordered:
    """A pytest plugin: runs the tests in an order, until the first failure, telling which is at work."""

    def __init__(self, first: Sequence[str], passed: Sequence[str], say: Callable[[str], None]):
        self.rank, self.passed, self.say = {name: place for place, name in enumerate(first)}, passed, say

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: Any) -> bool:
        """In the place of the usual loop."""
        items = [item for item in session.items if digest(item) not in self.passed]
        items.sort(key=lambda item: self.rank.get(item.nodeid, len(self.rank)))
        os._exit(0 if run_items(items, self.say) else 1)
