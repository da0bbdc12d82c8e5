"""The campaign and the mutation run themselves: small ones hold, and the changes are changes."""

import ast
import subprocess
import sys

import pytest

from tests.mutation.mutants import mutants

CODE = '''
def f(x: int = 3) -> float:
    """Doc 1."""
    if not x > 2 and x != 5:
        raise ValueError(f"{x + 1}")
    return -clip(rint(x * 0.5), 0, 255) if x else pad(x, mode="reflect")
'''


def test_mutants_are_one_change_each_of_what_computes():
    whole = ast.unparse(ast.parse(CODE))
    found = [*mutants(CODE)]
    assert len({one.code for one in found}) == len(found) > 12
    for one in found:
        assert one.code != whole and '"""Doc 1."""' in one.code and "raise ValueError(f'{x + 1}')" in one.code
        assert sum(a != b for a, b in zip(one.code.splitlines(), whole.splitlines(), strict=True)) == 1
    changes = " ".join(one.change for one in found)
    for change in ("x > 2  ->  x >= 2", "'reflect'  ->  'edge'", "x * 0.5  ->  x / 0.5", "255  ->  256"):
        assert change in changes


@pytest.mark.slow
def test_a_small_campaign_finds_nothing():
    subprocess.run([sys.executable, "-m", "tests.campaign", "--scale", "0.02"], check=True)


@pytest.mark.slow
def test_at_least_95_of_100_mutants_are_killed(tmp_path):
    command = [sys.executable, "-m", "tests.mutation", "--every", "10", "--out", str(tmp_path / "table.md")]
    subprocess.run(command, check=True)
    last = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| all ")]
    assert float(last[0].split("|")[-2].strip(" %")) >= 95
