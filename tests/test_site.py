"""docs/ as a site: every page is in the navigation, links lead somewhere, the API is read from docstrings."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation import ROOT

pytest.importorskip("material", reason="needs the extra 'docs'")
pytest.importorskip("mkdocstrings_handlers.python")

REPOSITORY = "https://git.example.org/someone/hd-painter"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"REPOSITORY_URL": REPOSITORY}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return folder


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_every_page_is_there(site):
    for page in ROOT.glob("docs/**/*.md"):
        made = site / page.relative_to(ROOT / "docs").with_suffix("")
        assert (made.with_suffix(".html") if page.stem == "index" else made / "index.html").exists(), page


def test_the_api_has_the_docstrings_of_all_it_names(site):
    page = text(site / "api" / "index.html")
    named = re.findall(r"^::: (\S+)$", text(ROOT / "docs" / "api.md"), re.MULTILINE)
    assert "hdpainter.pipeline.HDPainter" in named
    assert not [name for name in named if f'id="{name}"' not in page]
    shown = html.unescape(re.sub(r"<[^>]+>", "", page))
    for words in ("Fill the mask with what the prompt says", "Patches on enter, restores on exit"):
        assert words in shown


def test_files_that_are_no_pages_are_linked_in_the_repository(site):
    page = text(site / "paper-vs-release" / "index.html")
    assert f'href="{REPOSITORY}/blob/main/configs/methods"' in page
    assert f'href="{REPOSITORY}/blob/main/hdpainter/objectives.py"' in page


def test_nothing_is_fetched_from_other_hosts(site):
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|img|iframe|source)[^>]+src=[\"']?(https?:[^\"' >]+)", text(page))
        fetched += re.findall(r"<link[^>]+rel=[\"']?stylesheet[^>]+href=[\"']?(https?:[^\"' >]+)", text(page))
        assert not fetched, page


def test_arguments_in_prose_become_a_list():
    from scripts.docs import as_list  # asks for the extra

    docstring = "Fill.\n\nimage, mask: two\n    lines.\nseed: one.\nRaises UserError.\n\nArgs:\n    x: y."
    items = "- `image, mask`: two\n    lines.\n- `seed`: one."
    assert as_list(docstring) == f"Fill.\n\n\n{items}\n\nRaises UserError.\n\nArgs:\n    x: y."
