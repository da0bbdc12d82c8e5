"""A small toy COCO, the tiny pipeline, and configs that use them."""

from pathlib import Path

import pytest
import yaml

from hdpainter.mini.world import toycoco
from hdpainter.pipeline import HDPainter
from tests.hdpainter.conftest import tiny_pipeline  # noqa: F401 (a fixture)


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory) -> Path:
    """An MSCOCO folder of eight toy pictures of 64 px."""
    root = tmp_path_factory.mktemp("toy") / "coco"
    toycoco.export("val", 8, 64, root)
    return root


@pytest.fixture(scope="session")
def painter(tiny_pipeline) -> HDPainter:  # noqa: F811
    """The tiny pipeline in float32: in bfloat16 a batch and its pictures one by one differ visibly."""
    return HDPainter.from_config(tiny_pipeline, device="cpu", dtype="float32")


@pytest.fixture
def write_config(tmp_path, toy_root):
    """write_config(methods, **values) -> the path of a config for six samples of toy COCO."""

    def write(methods, **values) -> Path:
        benchmark = {"coco": str(toy_root), "samples": 6, "size": 64} | values.pop("benchmark", {})
        path = tmp_path / "config.yaml"
        values = {"out": str(tmp_path / "run"), "dtype": "float32"} | values
        content = {"benchmark": benchmark, "methods": methods, **values}
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return path

    return write
