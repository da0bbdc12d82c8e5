"""README's installation for CPUs: its commands fit the pins, it is small, and enough to inpaint."""

import re
import subprocess
import sys
from importlib.metadata import Distribution, distribution, packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.documentation import ROOT, fences
from tests.hdpainter.conftest import tiny_pipeline  # noqa: F401 (a fixture)
from tests.test_project_files import PROJECT

CUDA = re.compile(r"(nvidia|cuda|triton)\b")  # what torch's wheel for CPUs does not ask for

INPAINT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in ABSENT else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *context):  # some ask these what is there
        return (one for one in super().find_distributions(*context) if one.name.lower() in PRESENT)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
from hdpainter.cli import main

sys.exit(main(sys.argv[1:]))
"""


def installed() -> dict[str, Distribution]:
    """What `pip install .` brings beside CUDA, by the names of the distributions."""
    found: dict[tuple[str, frozenset], Distribution] = {}
    todo = [Requirement(word) for word in PROJECT["dependencies"]]
    while todo:
        requirement = todo.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in found or CUDA.match(name):
            continue
        found[name, extras] = distribution(name)
        for needed in map(Requirement, distribution(name).requires or []):
            if not needed.marker or any(needed.marker.evaluate({"extra": e}) for e in ("", *extras)):
                todo.append(needed)
    return {name: one for (name, _), one in found.items()}


def commands() -> list[str]:
    (block,) = (block for block in fences(ROOT / "README.md", "bash") if "CPU_WHEEL_INDEX" in block)
    return [line for line in block.splitlines() if line.startswith("pip install")]


def test_the_commands_take_versions_of_which_there_are_cpu_builds():
    torch, project = commands()
    assert torch.endswith(" torch torchvision") and project.endswith(" -e .")
    assert all("--constraint requirements.txt" in line for line in (torch, project))
    pins = re.findall(r"^(?:torch|torchvision)==.*", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    for pin in map(Requirement, pins):
        (version,) = pin.specifier
        assert pin.marker is None and pin.specifier.contains(f"{version.version}+cpu")
    assert len(pins) == 2


def test_it_takes_less_than_2_gb():
    """With the torch that is installed here; where that is one for CUDA, the one for CPUs is smaller."""
    files = [file.locate() for one in installed().values() for file in one.files or []]
    assert 5e8 < sum(path.stat().st_size for path in files if path.exists()) < 2e9


@pytest.mark.slow
def test_it_is_enough_to_inpaint(tiny_pipeline, tmp_path):  # noqa: F811
    names = installed()
    absent = {
        module
        for module, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & {*names, PROJECT["name"]}
    }
    absent -= sys.stdlib_module_names
    absent = {module for module in absent if not CUDA.match(module) and module.isidentifier()}
    assert {"gradio", "matplotlib", "ray", "mmdet", "pytest"} <= absent and "torch" not in absent
    picture, mask = (
        ROOT / "configs" / "inference" / "pictures" / f"garden{end}.png" for end in ("", "_mask")
    )
    words = ["inpaint", "--model", tiny_pipeline, "--steps", "1", "--device", "cpu", "--prompt", "a clock"]
    words += ["--image", picture, "--mask", mask, "--out", tmp_path / "clock.png"]
    present = {one.name.lower() for one in names.values()} | {PROJECT["name"]}
    code = INPAINT.replace("ABSENT", repr(absent)).replace("PRESENT", repr(present))
    command = [sys.executable, "-c", code, *map(str, words)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0 and (tmp_path / "clock.png").exists(), ran.stderr
