"""A server with the tiny pipeline, and a picture for it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hdpainter.models.identity import identify
from hdpainter.pipeline import HDPainter
from hdpainter.web.limits import Limits
from hdpainter.web.menu import Menu


@pytest.fixture(scope="session")
def loaded(tiny_pipeline):
    """load(model) for the server; counts how often a model is loaded."""

    def load(model: str) -> HDPainter:
        load.calls.append(model)
        return HDPainter.from_config(tiny_pipeline, device="cpu", dtype="float32")

    load.calls = []
    return load


@pytest.fixture(scope="session")
def server(tiny_pipeline, loaded):
    pytest.importorskip("gradio", reason="the page needs gradio: pip install gradio")
    from hdpainter.web.server import Server

    menu = Menu({str(tiny_pipeline): True}, Limits(megapixels=2, upload_mb=8, per_user=20))
    with Server(menu, loaded, identify) as running:
        yield running


@pytest.fixture
def visitor(browser, server):
    """Somebody with the server's page open, who asks nothing of other servers."""
    from benchmarks.browser import Visitor

    visitor = Visitor(browser, server.url)
    yield visitor
    assert visitor.foreign == []
    visitor.close()


@pytest.fixture
def picture(tmp_path, photo) -> Path:
    """A small photo as a file, a portrait that is stored sideways with an EXIF orientation."""
    upright = photo(90, 120, seed=1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = tmp_path / "my photo.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    return path


@pytest.fixture
def mask(tmp_path) -> Path:
    """A mask for `picture`: a box."""
    grey = np.zeros((120, 90), np.uint8)
    grey[40:90, 20:60] = 255
    path = tmp_path / "box.png"
    Image.fromarray(grey).save(path)
    return path
