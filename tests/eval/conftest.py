"""A small toy COCO, the tiny pipeline, and configs that use them."""

from functools import partial
from pathlib import Path

import pytest
import yaml

from eval.runs import Run
from eval.summary import Summary, summarise
from hdpainter.mini.world import toycoco
from hdpainter.pipeline import HDPainter
from tests.eval.fake_run import fake_run
from tests.hdpainter.conftest import tiny_baselines, tiny_pipeline  # noqa: F401 (fixtures)


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


def config_in(folder, toy_root, methods, benchmark=(), **values) -> Path:
    """Write a config for six samples of toy COCO; both it and its results lie in `folder`."""
    content = {
        "out": str(folder / "run"),
        "dtype": "float32",
        "benchmark": {"coco": str(toy_root), "samples": 6, "size": 64, **dict(benchmark)},
        "methods": methods,
        **values,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def write_config(tmp_path, toy_root):
    """write_config(methods, **values) -> the path of a config, see `config_in`."""
    return partial(config_in, tmp_path, toy_root)


@pytest.fixture(scope="session")
def scored_run(tmp_path_factory) -> Run:
    """A made-up run of 40 samples with all scores."""
    return fake_run(tmp_path_factory.mktemp("scored") / "run", 40)


@pytest.fixture(scope="session")
def summary(scored_run) -> Summary:
    """The numbers of `scored_run`."""
    return summarise(scored_run, repeats=200)
