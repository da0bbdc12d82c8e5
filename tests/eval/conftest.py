"""A small toy COCO, the tiny pipeline, and configs that use them."""

from pathlib import Path

import pytest
import yaml

from ldm.data import toycoco
from tests.hdpainter.conftest import painter, tiny_pipeline  # noqa: F401 (fixtures)


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory) -> Path:
    """An MSCOCO folder of eight toy pictures of 64 px."""
    root = tmp_path_factory.mktemp("toy") / "coco"
    toycoco.export("val", 8, 64, root)
    return root


@pytest.fixture
def write_config(tmp_path, toy_root):
    """write_config(methods, **values) -> the path of a config for six samples of toy COCO."""

    def write(methods, **values) -> Path:
        benchmark = {"coco": str(toy_root), "samples": 6, "size": 64} | values.pop("benchmark", {})
        path = tmp_path / "config.yaml"
        content = {"out": str(tmp_path / "run"), "benchmark": benchmark, "methods": methods, **values}
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return path

    return write
