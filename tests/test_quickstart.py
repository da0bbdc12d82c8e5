"""The quickstart runs, and its notebook is its script."""

import json
import re
import runpy

import numpy as np
import pytest

from ldm.util import CONFIGS

SCRIPT = CONFIGS.parent / "examples" / "quickstart.py"


def test_the_notebook_is_the_script():
    """`jupytext --to ipynb examples/quickstart.py` makes it, without outputs."""
    parts = re.split(r"^# %%( \[markdown\])?\n", SCRIPT.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    cells = [
        ("markdown", re.sub(r"^# ?", "", text, flags=re.MULTILINE).strip())
        if kind
        else ("code", text.strip())
        for kind, text in zip(parts[::2], parts[1::2], strict=True)
    ]
    notebook = json.loads(SCRIPT.with_suffix(".ipynb").read_text(encoding="utf-8"))
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]] == cells
    assert not any(cell.get("outputs") for cell in notebook["cells"])


@pytest.mark.slow
def test_it_runs_on_the_miniatures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = runpy.run_path(str(SCRIPT))
    before, after, known = found["picture"], np.array(found["result"].image), found["mask"] == 0
    assert (after == before)[known].all() and not (after == before)[~known].all()
    assert found["result"].metadata["method"]["name"] == found["painter"].models.spec.method
    made = {path.name for path in (tmp_path / "outputs" / "quickstart").iterdir()}
    assert made == {"task.png", "result.png", "methods.png", "explained"}
    assert (tmp_path / "outputs" / "quickstart" / "explained" / "index.html").is_file()
