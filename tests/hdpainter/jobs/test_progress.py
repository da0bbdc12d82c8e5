"""What is shown of a run, on a terminal and elsewhere."""

import io
import re

import pytest

from hdpainter.jobs.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_every_picture_has_its_line_and_only_a_terminal_bars(stream):
    with Progress(3, stream) as progress:
        for name in ("boat", "hat", "kite"):
            progress.start(name)
            for stage in ("inpainting", "superres"):
                for step in range(1, 5):
                    progress.step(stage, step, 4)
            progress.finish(f"{name}: done")
    shown = stream.getvalue()
    lines = [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[.", "", shown)) if line.startswith("[")]
    assert [line.split(" (")[0] for line in lines] == [
        "[1/3] boat: done",
        "[2/3] hat: done",
        "[3/3] kite: done",
    ]
    if stream.isatty():
        assert "hat: superres" in shown and "3/3" in shown
    else:
        assert shown.count("\n") == len(lines) == 3 and "\r" not in shown
        assert re.fullmatch(r"\[1/3\] boat: done \(\d\d:\d\d left\)", lines[0])
        assert "left" not in lines[2]


def test_a_long_picture_says_how_far_it_is_where_there_is_no_terminal(monkeypatch):
    now, stream = [0.0], io.StringIO()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with Progress(1, stream, quiet=10) as progress:
        progress.start("boat")
        for step in range(1, 31):
            now[0] += 0.9
            progress.step("inpainting", step, 30)
    assert stream.getvalue() == "boat: inpainting 12/30\nboat: inpainting 24/30\n"
