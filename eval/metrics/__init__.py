"""The judges: every metric by name, built from a config."""

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from eval.metrics.base import Metric, Value
from eval.metrics.weights import MissingWeights, find_config
from hdpainter.configs import read_yaml
from hdpainter.values import from_mapping
from ldm.util import UserError, get_obj_from_str, instantiate_from_config

__all__ = ["METRICS", "Metric", "Value", "make_metric", "read_metrics"]

METRICS = {
    "clip": "eval.metrics.clip.ClipScore",
    "accuracy": "eval.metrics.accuracy.Accuracy",
    "pickscore": "eval.metrics.pickscore.PickScore",
    "minipick": "eval.metrics.pickscore.MiniPick",
    "fidelity": "eval.metrics.pixels.Fidelity",
    "seam": "eval.metrics.pixels.Seam",
    "saturation": "eval.metrics.pixels.Saturation",
}
_WITH_WEIGHTS = ("clip", "accuracy", "pickscore", "minipick", "fidelity")


def make_metric(
    name: str,
    params: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    download: bool = False,
    source: str | None = None,
) -> Metric:
    """The metric `name` with the parameters of its class.

    download: fetch weights that are missing. source: arguments of `python -m eval score` that give these
    parameters, such as "--config metrics-mini": for the message that says how to fetch them.
    Raises UserError for unknown names and parameters, for parameters of another type, and for missing weights.
    """
    if name not in METRICS:
        raise UserError(f"there is no metric {name!r}; there are {', '.join(METRICS)}")
    extra = {"device": device} | ({"download": download} if name in _WITH_WEIGHTS else {})
    config = {"target": METRICS[name], "params": _typed(name, params or {})}
    try:
        return instantiate_from_config(config, **extra)
    except MissingWeights as error:
        words = ["python -m eval score", *([source] if source else []), f"--metric {name} --download"]
        how = "download=True fetches them" if source is None else f"get them with: {' '.join(words)}"
        raise UserError(f"{error}; {how}") from None


def _typed(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, those that the class of the metric knows being of the types that it says."""
    hints = typing.get_type_hints(get_obj_from_str(METRICS[name]).__init__)
    known = {key: value for key, value in params.items() if key in hints}
    fields = dataclasses.make_dataclass("Parameters", [(key, hints[key]) for key in known])
    return {**params, **vars(from_mapping(fields, known, f"metrics: {name}"))}


def read_metrics(
    source: str | Path | Mapping[str, Any], within: tuple[Path, ...] = ()
) -> dict[str, dict[str, Any]]:
    """Parameters by metric: a mapping, or a YAML file (also of ``configs/eval``) whose `metrics` is one.

    within: files that refer to it. Raises UserError if it is not.
    """
    metrics: Any = source
    where = "metrics"
    if not isinstance(source, Mapping):
        name = str(source)
        known = name if Path(name).suffix in (".yaml", ".yml") else f"eval/{name}.yaml"
        path = find_config(known, "the config of the metrics")
        where, metrics = f"{path}: metrics", read_yaml(path).get("metrics")
        if isinstance(metrics, str):  # it refers to another file
            if path.resolve() in within:
                raise UserError(f"{where} is {metrics!r}, which leads back to this file: give the parameters")
            return read_metrics(metrics, (*within, path.resolve()))
    if not isinstance(metrics, Mapping) or not metrics:
        raise UserError(f"{where} must map names of metrics to their parameters")
    for name, params in metrics.items():
        if name not in METRICS:
            raise UserError(f"{where}: there is no metric {name!r}; there are {', '.join(METRICS)}")
        if not isinstance(params, Mapping | None):
            raise UserError(f"{where}: {name} must be a mapping of parameters, not {params!r}")
    return {name: dict(params or {}) for name, params in metrics.items()}
