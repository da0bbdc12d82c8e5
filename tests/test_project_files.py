"""What the project's files say of one another: dependencies, versions, paths, commands of the workflow."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.documentation import FENCE, PAGES, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ["3.11", "3.12", "3.13"]
MADE = ("outputs", "runs", "build")  # by commands
IMPLIED = {"setuptools"}  # mmengine imports it without asking for it


def declared(*extras: str) -> dict[str, Requirement]:
    """The requirements of the project and of some extras, by name."""
    words = [*PROJECT["dependencies"], *(word for extra in extras for word in EXTRAS[extra])]
    requirements = {
        canonicalize_name(requirement.name): requirement for requirement in map(Requirement, words)
    }
    requirements.pop(PROJECT["name"], None)  # an extra may name others
    return requirements


def imported(*folders: str) -> set[str]:
    """What of others the folders' files import, by the names of the distributions."""
    modules, distributions = set(), packages_distributions()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module.partition(".")[0])
    others = modules - sys.stdlib_module_names - {path.name for path in ROOT.iterdir()}
    return {canonicalize_name(distributions.get(module, [module])[0]) for module in others}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    assert imported("ldm", "hdpainter", "eval") == declared(*EXTRAS.keys() - {"dev", "docs"}).keys() - IMPLIED


def test_test_tools_are_in_an_extra_of_their_own():
    tools = declared("dev").keys() - declared().keys()
    assert {"pytest", "ruff"} <= tools and not tools & declared(*EXTRAS.keys() - {"dev", "docs"}).keys()


def test_every_package_has_one_version_within_its_range():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    assert len(versions) == len(pins)
    for name, requirement in declared(*EXTRAS).items():
        assert requirement.specifier.contains(versions[name]), requirement
    assert {
        line for path in ROOT.glob("*.yml") for line in re.findall(r"\w+==[\d.]+", path.read_text())
    } == set()


def test_conda_installs_what_the_scripts_do():
    *_, pip = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    script = (ROOT / "scripts" / "setup.sh").read_text(encoding="utf-8")
    words = re.search(r"^install=\(pip install (.*)\)$", script, re.MULTILINE)[1]
    assert " ".join(pip["pip"]) == words.replace('"', "").replace("$extras", "all")


def test_extras_that_documents_and_messages_name_are_there():
    # Not whatever lies in the repository's folder: a virtual environment's packages name extras of their own.
    code = [
        path for folder in ("eval", "hdpainter", "ldm", "scripts") for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    texts = [path.read_text(encoding="utf-8") for path in [*PAGES, *code]]
    named = {
        word
        for text in texts
        for words in re.findall(r"-e '\.\[([\w,]+)\]'", text)
        for word in words.split(",")
    }
    assert {"web", "explain", "eval"} <= named <= set(EXTRAS)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])


def test_the_workflow_runs_what_the_readme_says():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    readme, slow = workflow["jobs"]["readme"], workflow["jobs"]["slow"]
    assert [step["run"] for step in readme["steps"] if "run" in step] == two_commands()
    assert readme["strategy"]["matrix"]["python"] == PYTHONS
    assert [step["run"] for step in slow["steps"] if "run" in step] == [f"{two_commands()[1]} -m slow"]


def two_commands() -> list[str]:
    _, block = FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8"))[0]
    return [line.partition("#")[0].strip() for line in block.splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_documents_name_are_there(page):
    """Links to files and `inline/paths.py`; what commands make is not in the repository."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    linked = [page.parent / link for link in re.findall(r"\]\((?!\w+:)([^)#]+)\)", text)]
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in MADE)
    named = re.findall(rf"`((?:{folders})/[\w./*-]*)`", text)
    missing = [path for path in linked if not path.exists()]
    missing += [path for path in named if not list(ROOT.glob(path.rstrip("/")))]
    assert not missing
