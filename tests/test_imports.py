"""The floor plan: who imports whom, and how large a file may grow."""

import ast
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from ldm.util import CONFIGS

ROOT = CONFIGS.parent
# A package may import those of lower floors, and its own files.
FLOORS = {"ldm": 0, "hdpainter": 1, "eval": 2, "scripts": 3, "benchmarks": 3, "studies": 3}
LINES, LDM_LINES = 450, 3300


def sources(*folders: str) -> dict[str, str]:
    """The source of every module in these folders of the repository, by its name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path.read_text(
            "utf-8"
        )
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def imported(source: str, modules: Collection[str]) -> Iterator[str]:
    """Which of the modules a source imports, wherever it does: at the top, within a function, for types only.

    ``from package import name`` imports the module of this name, or else the package's own ``__init__``.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [(alias.name, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            names = [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
        else:
            continue
        for name, package in names:
            yield from [module for module in (name, package) if module in modules][:1]


def package_of(module: str) -> str:
    return module.partition(".")[0]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first again at the end; empty where none do."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.fixture(scope="module")
def graph():
    """What each module of FLOORS imports of FLOORS and of the tests."""
    modules = sources(*FLOORS)
    known = {*modules, *sources("tests")}
    return {name: set(imported(source, known)) for name, source in modules.items()}


def test_an_import_is_seen_wherever_it_stands():
    source = """
import a
from a import b, name
if TYPE_CHECKING:
    from c import C
def function():
    import d.e, os
    from d import name
"""
    known = ["a", "a.b", "c", "d", "d.e", "f"]
    assert set(imported(source, known)) == {"a", "a.b", "c", "d", "d.e"}
    with pytest.raises(AssertionError, match="line 1"):
        list(imported("from . import a", known))
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) in (["b", "c", "b"], ["c", "b", "c"])


def test_imports_point_downstairs(graph):
    upstairs = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if package_of(name) != package_of(other)
        and FLOORS.get(package_of(other), len(FLOORS)) >= FLOORS[package_of(name)]
    ]
    assert not upstairs


def test_no_two_files_import_each_other(graph):
    assert len(graph) > 100 and circle(graph) == []


def test_no_file_is_long():
    lengths = {name: len(source.splitlines()) for name, source in sources(*FLOORS, "tests").items()}
    assert not {name: lines for name, lines in lengths.items() if lines > LINES}
    assert sum(lines for name, lines in lengths.items() if package_of(name) == "ldm") <= LDM_LINES
