"""The mutation score: ``python -m tests.mutation [MODULE ...] [--every N] [--seconds S] [--out FILE]``.

Each mutant is imported in the place of its module and the module's tests are run, in a process of its own that is
forked from one in which the libraries are there already. What the tests notice, or do not survive in time, is
killed; every mutant that survives is printed and written to a table.
"""

import argparse
import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from tests.mutation.mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
# The tests of each module, those that are quick and near first.
TESTS = {
    "hdpainter/blend.py": ["tests/hdpainter/test_blend.py"],
    "hdpainter/masks.py": ["tests/hdpainter/test_masks.py"],
    "hdpainter/painta.py": ["tests/hdpainter/test_painta.py", "tests/hdpainter/test_variants.py"],
    "hdpainter/rasg.py": ["tests/hdpainter/test_rasg.py", "tests/hdpainter/test_variants.py"],
    "hdpainter/superres.py": ["tests/hdpainter/test_superres.py", "tests/hdpainter/test_pipeline.py"],
    "hdpainter/inpaint.py": ["tests/hdpainter/test_inpaint.py", "tests/hdpainter/test_pipeline.py"],
    "hdpainter/pipeline.py": ["tests/hdpainter/test_pipeline.py", "tests/hdpainter/test_draft.py"],
    "ldm/models/diffusion/ddim.py": ["tests/ldm/test_ddim.py", "tests/ldm/test_schedules.py"],
    "eval/stats.py": ["tests/eval/test_stats.py"],
    "eval/coco.py": ["tests/eval/test_coco.py", "tests/eval/test_bounds.py"],
}


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from other code."""

    def __init__(self, module: str, code: str):
        self.name = module.removesuffix(".py").replace("/", ".")
        self.path, self.code = ROOT / module, code

    def find_spec(self, fullname: str, path: object, target: object = None) -> object:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.code, str(self.path), "exec"), vars(module))


def outcome(module: str, code: str, tests: Sequence[str], seconds: float) -> str:
    """What the tests make of the module with other code: "killed", "survived", or "timeout", also a kill."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.setsid()
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1), os.dup2(nothing, 2)
            sys.meta_path.insert(0, _Instead(module, code))
            import pytest

            status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "", *tests])
            os._exit(int(status))
        os._exit(3)
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def score(module: str, every: int, seconds: float) -> tuple[int, list[Mutant]]:
    """(how many mutants were tried, those that survived). Raises SystemExit where the tests fail without any."""
    source, tests = (ROOT / module).read_text(encoding="utf-8"), TESTS[module]
    started = time.monotonic()
    if (found := outcome(module, source, tests, 3600)) != "survived":
        sys.exit(f"{module}: its tests fail as it is ({found})")
    limit = max(seconds, 5 * (time.monotonic() - started))
    tried = [*mutants(source)][::every]
    survivors = []
    for number, mutant in enumerate(tried, 1):
        found = outcome(module, mutant.code, tests, limit)
        if found == "survived":
            survivors.append(mutant)
        print(f"[{number}/{len(tried)}] {module}:{mutant.line} {found}: {mutant.change[:150]}", flush=True)
    return len(tried), survivors


def main() -> None:
    """Try the mutants of some modules and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", default=list(TESTS), help="default: all of TESTS")
    parser.add_argument("--every", type=int, default=1, help="try only each N-th mutant")
    parser.add_argument("--seconds", type=float, default=60, help="least time that tests have")
    parser.add_argument("--out", type=Path, default=Path("outputs/mutation.md"))
    args = parser.parse_args()
    os.chdir(ROOT)
    for library in ("numpy", "torch", "cv2", "scipy.stats", "hypothesis", "pytest", "PIL.Image", "open_clip"):
        with suppress(ImportError):
            importlib.import_module(library)
    lines, left = ["| module | mutants | killed | score |", "|---|---|---|---|"], []
    total = alive = 0
    for module in args.modules:
        tried, survivors = score(module, args.every, args.seconds)
        total, alive = total + tried, alive + len(survivors)
        killed = tried - len(survivors)
        lines.append(f"| `{module}` | {tried} | {killed} | {killed / max(tried, 1):.1%} |")
        left += [f"- `{module}:{one.line}`: `{one.change}`" for one in survivors]
    lines.append(f"| all | {total} | {total - alive} | {(total - alive) / max(total, 1):.1%} |")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join([*lines, "", *left]) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
