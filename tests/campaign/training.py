"""Trainings that are killed: the run that goes on has the same files, none of them torn."""

import csv
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import yaml
from PIL import Image

from hdpainter.mini.train import load_config
from hdpainter.mini.train import run as train
from ldm.checkpoint import read_state_dict
from ldm.util import CONFIGS

STEPS = 30


def prepare(folder: Path) -> tuple[Callable, Callable]:
    """(work, contents) of a training of an autoencoder of a few thousand weights, which saves all the time."""
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    folder.mkdir(parents=True)
    network = yaml.safe_load((CONFIGS / "models" / "mini-inpainting.yaml").read_text())
    network["model"]["params"]["first_stage_config"]["params"]["ddconfig"].update(ch=8, num_res_blocks=1)
    (folder / "network.yaml").write_text(yaml.safe_dump(network))
    params = {
        **{"config": str(folder / "network.yaml"), "cache": str(folder.parent / "scenes")},
        **{"size": 64, "scenes": 4, "held_out": 2, "crop_sizes": [32], "crop_weights": [1.0], "pixels": 1024},
        **{"steps": STEPS, "minutes": 10.0, "matrix_lr": 0.01, "workers": 1},
    }
    values = {
        "training": {"target": "hdpainter.mini.training.autoencoder.AutoencoderTraining", "params": params},
        "trainer": {"checkpoint_minutes": 0.005, "precision": "32-true"},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(values))

    def work() -> None:
        torch.set_num_threads(1)
        train(load_config(folder / "train.yaml", [], gpu=False), folder / "run", gpu=False)

    return work, lambda: dict(_told(folder / "run"))


def _told(folder: Path) -> Iterator[tuple[str, object]]:
    """What is there: of what depends on the moment of a death only that it is whole."""
    for path in sorted(folder.iterdir()):
        match path.suffix:
            case ".safetensors":
                weights = read_state_dict(path)
                finite = all(tensor.isfinite().all() for tensor in weights.values())
                yield path.name, (finite, sorted((name, tuple(t.shape)) for name, t in weights.items()))
            case ".json":
                card = json.loads(path.read_text())
                yield path.name, (sorted(card), card["steps"] >= STEPS)
            case ".ckpt":
                state = torch.load(path, weights_only=False)
                yield path.name, (sorted(state["state_dict"]), state["global_step"] >= STEPS)
            case ".csv":
                head, *rows = csv.reader(path.open(newline=""))
                whole = head[0] == "step" and all(len(row) == len(head) and row[0].isdigit() for row in rows)
                if path.name != "losses.csv" or not whole:  # it has a row after 20 steps without a death
                    yield path.name, whole
            case ".png":
                with Image.open(path) as picture:
                    picture.load()
                yield "sheet", True
            case _:
                yield path.name, True
