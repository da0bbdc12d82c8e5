"""Train one stage of the miniatures: `python -m hdpainter.mini.train configs/train/STAGE.yaml`.

A config names a `training` (target and params, see `hdpainter.mini.training`) and settings of the `trainer`; on
a GPU its `gpu` section overrides both. With `trainer.processes=N`, N GPUs or N processes on a CPU train a
diffusion model together, each with batches of its own. A run that was interrupted goes on from its last
checkpoint. A finished one leaves `model.safetensors` and its card `model.json` in the run's folder.
"""

import argparse
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors.torch import save_file

from hdpainter.configs import read_yaml
from hdpainter.files import replacing, write_json
from hdpainter.mini.training.averages import Snapshots
from hdpainter.mini.training.base import Rate, Report, Training
from hdpainter.models.devices import computes_in_bfloat16
from ldm.util import UserError, instantiate_from_config


def load_config(path: Path, overrides: Sequence[str], gpu: bool) -> DictConfig:
    """The YAML at `path`, with its `gpu` section merged in on a GPU, then `key=value` overrides.

    One that has a `base`, the name of a file beside it, says only what differs from that.
    """
    if not path.is_file():
        raise UserError(f"there is no training config {path}; see configs/train/")
    content: Any = read_yaml(path, training=True)
    if base := content.pop("base", None):
        if not (path.parent / str(base)).is_file():
            raise UserError(f"{path}: there is no base {base} beside it")
        content = OmegaConf.to_container(
            OmegaConf.merge(read_yaml(path.parent / base, training=True), content)
        )
    for section in ("training", "trainer", "gpu"):
        if not isinstance(content.get(section, {}), dict):
            raise UserError(f"{path}: {section} must be a mapping, not {content[section]!r}")
    if "target" not in content.get("training", {}):
        raise UserError(f"{path} is not a training config: it has no 'training' with a 'target'")
    if not isinstance(content["training"].get("params", {}), dict):
        raise UserError(f"{path}: training: params must be a mapping of names to values")
    if malformed := [text for text in overrides if "=" not in text]:
        raise UserError(f"setting {malformed[0]!r} is not of the form key=value")
    special = content.pop("gpu", {})
    try:
        return merged(content, special if gpu else {}, OmegaConf.from_dotlist(list(overrides)))
    except OmegaConfBaseException as error:
        problem = str(error).splitlines()[0]
        raise UserError(f"{path} and the settings given do not go together: {problem}") from None


def merged(*configs: Any) -> DictConfig:
    """One config of several; of values that stand in more than one, the last holds."""
    config = OmegaConf.merge(*configs)
    assert isinstance(config, DictConfig)
    return config


def run(config: DictConfig, run_dir: Path, gpu: bool) -> None:
    """Train, or go on training, in `run_dir`, then write the averaged weights and their card there."""
    run_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, run_dir / "config.yaml")
    settings = config.get("trainer", {})
    seed = settings.get("seed", 0)
    pl.seed_everything(seed)
    config = merged({"training": {"params": {"seed": seed}}}, config)  # of what the batches show
    files = config.training.params.get("parts", {})
    parts = {name: part_card(Path(path), name) for name, path in files.items()}
    start = config.training.params.get("start")
    earlier = {"start": part_card(Path(start))} if start else {}
    processes = settings.get("processes", 1)
    training = instantiate_from_config(config.training)
    if processes > 1 and not training.parallel:
        raise UserError(f"trainer.processes: {type(training).__name__} trains in one process; leave it at 1")
    report = Report(run_dir, minutes=settings.get("report_minutes", 5))
    interval = timedelta(minutes=settings.get("checkpoint_minutes", 4))
    checkpoints = ModelCheckpoint(
        run_dir, filename="last", train_time_interval=interval, enable_version_counter=False
    )
    callbacks: list[pl.Callback] = [report, checkpoints]
    if lengths := settings.get("averages", []):
        callbacks.insert(0, Snapshots(run_dir, lengths, settings.get("snapshot_minutes", 30)))
    trainer = new_trainer(settings, gpu, run_dir, callbacks)
    last = run_dir / "last.ckpt"
    trainer.fit(training, ckpt_path=last if last.exists() else None)
    trainer.save_checkpoint(last)
    if trainer.is_global_zero:
        export(training, report, config, {"parts": parts} | earlier, run_dir)


def new_trainer(
    settings: Mapping[str, Any] | DictConfig,
    gpu: bool,
    run_dir: Path,
    callbacks: list[pl.Callback],
    steps: int = -1,
) -> pl.Trainer:
    """Lightning's trainer with a config's `trainer` settings, without its own logs; steps: at most so many."""
    processes = settings.get("processes", 1)
    return pl.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        precision=settings.get("precision") or precision(gpu),
        max_epochs=-1,
        max_steps=steps,
        gradient_clip_val=settings.get("gradient_clip"),
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=steps < 0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_autolog_hparams=False,
        default_root_dir=run_dir,
    )


def dry_run(config: DictConfig, steps: int, run_dir: Path, gpu: bool) -> float:
    """Take some steps that leave nothing behind, and return how many crops of 128 pixels are done in a second.

    The first step, which draws, encodes and perhaps compiles, is not counted. Without a GPU, batches are of two
    crops.
    """
    if not gpu:
        crops = config.training.params.crops
        for size, (share, *_) in crops.items():
            crops[size] = [share, 2, 4]
    pl.seed_everything(config.get("trainer", {}).get("seed", 0))
    rate = Rate(skipped=1)
    new_trainer(config.get("trainer", {}), gpu, run_dir, [rate], steps).fit(
        instantiate_from_config(config.training)
    )
    return rate.rate


def precision(gpu: bool) -> Literal["bf16-mixed", "32-true"]:
    """The trainer's precision where a config has none: bfloat16 on a device that computes in it, else float32.

    A run may be resumed in another one.
    """
    return "bf16-mixed" if gpu or computes_in_bfloat16() else "32-true"


def export(
    training: Training, report: Report, config: DictConfig, origin: dict[str, Any], run_dir: Path
) -> None:
    """Write `model.safetensors` (floats in half precision) and its card `model.json`, each at once; `origin` has
    the cards of the frozen `parts` and of the model that it began with, `start`."""
    weights = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in training.weights().items()
    }
    card = {
        "training": OmegaConf.to_container(config.training, resolve=True),
        "seed": config.get("trainer", {}).get("seed", 0),
        "steps": training.global_step,
        "minutes": round(training.elapsed / 60, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "last_losses": report.losses,
        "held_out": report.figures,
    } | origin
    with replacing(run_dir / "model.safetensors") as part:
        save_file(weights, part, metadata={"format": "pt"})
    write_json(run_dir / "model.json", card)


def part_card(weights: Path, part: str | None = None) -> dict[str, Any]:
    """What the card beside some weights says of their training or, in a whole model's, of that of a `part`.

    Raises UserError if there is none.
    """
    path = weights.with_suffix(".json")
    try:
        card = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}, the card of weights that this training needs; train them first"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not the card of a trained part: {error}") from None
    card = card.get("parts", {}).get(part, card)
    return {name: value for name, value in card.items() if name not in ("device", "torch", "parts")}


def main(argv: Sequence[str] | None = None) -> int:
    """Train one stage of the miniature models."""
    parser = argparse.ArgumentParser(prog="python -m hdpainter.mini.train", description=main.__doc__)
    parser.add_argument("config", type=Path, help="a file of configs/train/")
    parser.add_argument("--run-dir", type=Path, help="where checkpoints and logs go (default: runs/NAME)")
    parser.add_argument(
        "--dry-run",
        type=int,
        metavar="STEPS",
        help="only take so many steps by the settings for a GPU, here on any device, and say how fast they are",
    )
    parser.add_argument("--threads", type=int, help="CPU threads per process")
    parser.add_argument(
        "overrides", nargs="*", help="settings that replace the config's, such as training.params.minutes=5"
    )
    args = parser.parse_intermixed_args(argv)
    # Lightning's remarks on devices that are not there, its checkpoints' folder and a product of its maker.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    if args.threads:
        torch.set_num_threads(args.threads)
    gpu = torch.cuda.is_available()
    try:
        run_dir = args.run_dir or Path("runs") / args.config.stem
        if args.dry_run:
            rate = dry_run(load_config(args.config, args.overrides, True), args.dry_run, run_dir, gpu)
            print(f"{rate:,.1f} crops of 128 pixels a second")
        else:
            run(load_config(args.config, args.overrides, gpu), run_dir, gpu)
    except UserError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
