"""The mutation score: ``python -m tests.mutation [MODULE ...] [--resume] [--jobs N] [--every N] [--out FILE]``.

The tests of a module are collected once, run as they are, and then once for each mutant in a process forked from
that one: those that run the changed lines, likely killers first, until one fails. Tests marked slow are left out.
Verdicts are appended to ``outputs/mutation.jsonl`` at once. Exit status 1 where a survivor is not explained in
``tests/mutation/equivalent.yaml``.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.documentation import replace_part
from tests.mutation.forks import fork
from tests.mutation.live import ROOT, Instead
from tests.mutation.mutants import Mutant, mutants
from tests.mutation.results import Results, table
from tests.mutation.session import ARGUMENTS, Ordered, Session, Verdict

# The tests of each module, those that are quick and near first.
TESTS = {
    "hdpainter/blend.py": ["tests/hdpainter/test_blend.py"],
    "hdpainter/masks.py": ["tests/hdpainter/test_masks.py"],
    "eval/stats.py": ["tests/eval/test_stats.py"],
    "eval/coco.py": ["tests/eval/test_coco.py", "tests/eval/test_bounds.py"],
    "ldm/models/diffusion/ddim.py": [
        "tests/ldm/test_ddim.py",
        "tests/ldm/test_ddim_options.py",
        "tests/ldm/test_schedules.py",
    ],
    "hdpainter/inpaint.py": [
        "tests/hdpainter/test_inpaint.py",
        "tests/hdpainter/test_blended_methods.py",
        "tests/hdpainter/test_pipeline.py",
    ],
    "hdpainter/superres.py": ["tests/hdpainter/test_superres.py", "tests/hdpainter/test_pipeline.py"],
    "hdpainter/painta.py": ["tests/hdpainter/test_painta.py", "tests/hdpainter/test_variants.py"],
    "hdpainter/rasg.py": [
        "tests/hdpainter/test_rasg.py",
        "tests/hdpainter/test_objectives.py",
        "tests/hdpainter/test_variants.py",
    ],
    "hdpainter/pipeline.py": [
        "tests/hdpainter/test_pipeline.py",
        "tests/hdpainter/test_draft.py",
        "tests/hdpainter/test_inputs.py",
        "tests/hdpainter/test_baseline_pipelines.py",
    ],
}
LIBRARIES = ("numpy", "torch", "cv2", "scipy.stats", "hypothesis", "pytest", "PIL.Image", "omegaconf")
OUT = ROOT / "docs" / "reliability.md"


def judge(module: str, tried: list[Mutant], results: Results, jobs: int, seconds: float) -> None:
    """Have a verdict on each mutant of a module in `results`."""
    # A folder of its own: where all runs of pytest write, each tidies up after the others.
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = _warm(module, tried, results, jobs, seconds, report)
            finally:
                sys.stdout.flush()
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        if status or not report.is_file():
            sys.exit(f"{module}: stopped")
        content = json.loads(report.read_text(encoding="utf-8"))
        results.read()
        order = [name for name, _ in results.kills(module).most_common()]
        for index, passed in content["cold"]:
            mutant = tried[index]
            work = _cold(module, mutant, order, passed, Path(folder))
            child = fork(work, seconds + 5 * content["seconds"])
            while not (found := child.finished()):
                time.sleep(0.02)
            test = "" if found == "survived" else child.said
            digests = content["digests"]
            _tell(module, mutant, found, test)
            results.add(module, mutant, found, test, digests.get(test, ""), () if test else digests.values())


def _warm(module: str, tried: list[Mutant], results: Results, jobs: int, seconds: float, report: Path) -> int:
    """The mutants within functions, in a session that has all imported; the others are left in `report`."""
    import pytest

    seen: dict[str, str] = {}

    def known(mutant: Mutant, digests: dict[str, str]) -> list[str] | None:
        seen.update(digests)
        return results.left(module, mutant, digests)

    def judged(verdict: Verdict, digests: dict[str, str]) -> None:
        _tell(module, verdict.mutant, verdict.found, verdict.test)
        passed = () if verdict.test else digests.values()
        results.add(
            module, verdict.mutant, verdict.found, verdict.test, digests.get(verdict.test, ""), passed
        )

    session = Session(module, tried, results.kills(module), jobs, seconds, known, judged, results)
    arguments = [*ARGUMENTS, f"--basetemp={report.parent / 'warm'}", *TESTS[module]]
    status = pytest.main(arguments, plugins=[session])
    cold = [(tried.index(mutant), passed) for mutant, passed in session.cold]
    content = {"cold": cold, "digests": seen, "seconds": sum(session.times.values())}
    report.write_text(json.dumps(content), encoding="utf-8")
    return int(status)


def _cold(
    module: str, mutant: Mutant, order: list[str], passed: list[str], folder: Path
) -> Callable[[Callable[[str], None]], bool]:
    """A mutant of what runs at import: everything of ours is imported anew."""

    def work(say: Callable[[str], None]) -> bool:
        sys.meta_path.insert(0, Instead(module, mutant.code))
        import pytest

        say("import")
        arguments = [*ARGUMENTS, f"--basetemp={folder / 'cold'}", *TESTS[module]]  # which empties it
        return pytest.main(arguments, plugins=[Ordered(order, passed, say)]) == 0

    return work


def _tell(module: str, mutant: Mutant, found: str, test: str) -> None:
    print(f"{module}:{mutant.line} {found}: {mutant.change[:150]}  [{test.split('::')[-1]}]", flush=True)


def main() -> int:
    """Try the mutants of some modules and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", default=list(TESTS), metavar="MODULE", help="default: all")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="try only each N-th mutant")
    parser.add_argument("--first", type=int, metavar="N", help="try only the first N of each module")
    parser.add_argument("--seconds", type=float, default=20, help="least time of a CPU that tests have")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutants at the same time")
    parser.add_argument("--resume", action="store_true", help="keep the verdicts of the log that still hold")
    parser.add_argument("--table", action="store_true", help="try nothing; with --resume, of what is known")
    parser.add_argument("--log", type=Path, default=ROOT / "outputs" / "mutation.jsonl")
    parser.add_argument("--out", type=Path, help=f"Markdown file whose table is replaced, as {OUT.name}")
    args = parser.parse_args()
    os.chdir(ROOT)
    for library in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(library)
    results = Results(args.log, args.resume)
    known = {module: [*mutants((ROOT / module).read_text(encoding="utf-8"))] for module in args.modules}
    for module in () if args.table else args.modules:
        started = time.monotonic()
        judge(module, known[module][:: args.every][: args.first], results, args.jobs, args.seconds)
        print(f"{module}: {time.monotonic() - started:.0f} s", flush=True)
    text, unexplained = table(results, known)
    print(text)
    if args.out:
        replace_part(args.out, "mutation", text)
    return int(unexplained > 0)


if __name__ == "__main__":
    sys.exit(main())
