"""The campaign and the mutation run themselves: small ones hold, and the changes are changes."""

import ast
import json
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
    assert {one.function for one in found} == {"f", ""}  # the default is made at import
    assert all(one.line in one.lines for one in found)
    for change in ("x > 2  ->  x >= 2", "'reflect'  ->  'edge'", "x * 0.5  ->  x / 0.5", "255  ->  256"):
        assert change in changes


@pytest.mark.slow
def test_a_small_campaign_finds_nothing_and_keeps_its_counts(tmp_path):
    log = tmp_path / "counts.json"
    command = [sys.executable, "-m", "tests.campaign", "--scale", "0.01", "--log", str(log)]
    subprocess.run(command, check=True)
    before = json.loads(log.read_text())
    subprocess.run([*command, "--only", "memory"], check=True)
    after = json.loads(log.read_text())
    assert before.keys() == after.keys() > {"fuzz", "kills", "web"}
    assert before["memory"] != after["memory"]  # it took another time
    assert {name: before[name] for name in before if name != "memory"} == {
        name: after[name] for name in after if name != "memory"
    }


@pytest.mark.slow
def test_a_small_mutation_run_has_verdicts_and_goes_on_where_it_was(tmp_path):
    log = tmp_path / "log.jsonl"
    command = [sys.executable, "-m", "tests.mutation", "eval/stats.py", "--every", "20", "--log", str(log)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert "| all |" in found.stdout, found.stderr
    whole = [json.loads(line) for line in log.read_text().splitlines()]
    rows = [row for row in whole if "found" in row]  # the others say which lines each test runs
    verdicts = [row["found"] for row in rows]
    assert len(rows) >= 7 and verdicts.count("killed") >= len(rows) - 2 and "timeout" not in verdicts
    log.write_text("".join(json.dumps(row) + "\n" for row in whole if row != rows[0]))
    subprocess.run([*command, "--resume"], check=False)
    again = [row for line in log.read_text().splitlines() if "found" in (row := json.loads(line))]
    assert again[:-1] == rows[1:] and again[-1]["key"] == rows[0]["key"]
