"""The paper's figures: each is drawn from pictures that were made for it, and mistakes are one line."""

import numpy as np
import pytest
from PIL import Image

from hdpainter.explain.diagram import DPI, HEIGHT, WIDTH, diagram
from hdpainter.pipeline import HDPainter


@pytest.fixture
def pictures(photo, tmp_path):
    """A folder of two pictures, one of them wide, as `hdpainter batch` takes it."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, size in (("a", (96, 64)), ("b", (64, 64))):
        for part, image in zip((name, f"{name}_mask"), photo(*size), strict=True):
            image.save(folder / f"{part}.png")
    (folder / "prompts.csv").write_text("image,prompt,seed\na.png,a $5 kite,1\nb.png,a boat,2\n")
    return folder


@pytest.mark.parametrize("pipeline", ["tiny_pipeline", "tiny_text_to_image"])
def test_all_four(script, request, pictures, tmp_path, pipeline):
    model = request.getfixturevalue(pipeline)
    words = (
        "--model",
        model,
        "--pictures",
        pictures,
        "--steps",
        1,
        "--device",
        "cpu",
        "--out",
        tmp_path / "out",
    )
    code, out, err = script("figures.py", *words)
    assert code == 0, err
    assert out.split() == [str(tmp_path / "out" / f"fig{number}.png") for number in (1, 2, 3, 4)]
    first, second, third, fourth = (Image.open(path) for path in out.split())
    columns = 4 if pipeline == "tiny_pipeline" else 5
    assert first.size == (10 + 3 * 490, 30 + 2 * 510) and fourth.size == (10 + columns * 330, 30 + 2 * 350)
    assert second.size == (round(WIDTH * DPI), round(HEIGHT * DPI)) and third.mode == "RGB"
    rows = np.array(fourth)[55:, 10:330]
    assert (rows[:320] != rows[350:670]).any()  # two pictures


def test_mistakes_are_told_before_a_model_loads(script, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(HDPainter, "from_config", lambda *_: pytest.fail("loaded the models"))
    (tmp_path / "file").write_text("mine")
    (pictures / "b_mask.png").unlink()
    for words, message in {
        ("--count", 0): "--count is 0: give a number from 1 to 100",
        ("--figures", 5): "invalid choice: 5",
        ("--model", "nosuch"): "unknown model 'nosuch'",
        ("--model", "glide"): "the figures are of hd-painter's models",
        ("--pictures", pictures): "b",
        ("--pictures", tmp_path / "none"): "none",
        ("--out", tmp_path / "file"): "cannot be made",
        ("--steps", 0): "sampler.steps is 0",
    }.items():
        code, _, err = script("figures.py", *words)
        assert code == 2 and message in err and err.startswith("figures: error: ") and err.count("\n") == 1, (
            err
        )


def test_the_diagram_holds_the_sample_and_any_words(photo):
    picture, mask = (image.resize((64, 64)) for image in photo(64, 48))
    fill = np.array(mask) > 127
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ((200, 10, 10), (10, 10, 200)))
    drawn = np.array(diagram(picture, fill, red, blue, "$x_{ & <b> " * 9))
    assert not (drawn == np.array(diagram(picture, fill, blue, red, "$x_{ & <b> " * 9))).all()
    for colour in ((200, 10, 10), (10, 10, 200)):  # each in one place of 1.2 inches a side
        count = (drawn == colour).all(-1).sum()
        assert 0.95 < count / (1.2 * DPI) ** 2 <= 1.02
    assert (drawn[0] == 255).all() and (drawn[:, 0] == 255).all()  # nothing runs over the edge
