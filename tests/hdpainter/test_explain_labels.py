"""The words in figures: measured by the font, wrapped where they would not fit, never cut or over one another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("matplotlib", reason="the figures need matplotlib: pip install -e '.[explain]'")

from hdpainter.explain.panels import DPI, MARGIN, Cell, Panels, width_of, wrapped

NAMES = st.text(st.sampled_from("MWil_-ä "), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(NAMES, st.sampled_from([0.5, 1.75, 3.0]), st.sampled_from(["normal", "bold"]))
def test_every_line_fits_and_every_letter_is_there(name, width, weight):
    lines = wrapped(name, width, weight=weight).split("\n")
    assert all(width_of(line, weight=weight) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == name.replace(" ", "")


def test_lines_end_at_words_and_hyphens():
    assert wrapped("hd-painter-diffusers", 1.2, weight="bold") == "hd-painter-\ndiffusers"
    assert wrapped("one two", 9) == "one two" and wrapped("a\nb", 9) == "a\nb"


@pytest.mark.parametrize("long", ["M" * 60, "a-method-of-a-long-name, " * 4])
def test_nothing_reaches_the_border_of_a_figure(long):
    cells = [[Cell(Image.new("RGB", (24, 24), "teal"))] * 3] * 2
    mask = np.zeros((24, 24), bool)
    mask[8:16, 8:16] = True
    for title in ("short", long):
        figure = np.array(Panels(mask).draw(title, cells, [long, "b"], [long, "two", long]))
        edge = round(DPI * MARGIN / 2)
        for border in (figure[:edge], figure[-edge:], figure[:, :edge], figure[:, -edge:]):
            assert (border == 255).all()
