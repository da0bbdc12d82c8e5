"""The judges: every metric by name, built from a config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from eval.metrics.base import Metric, Value
from eval.metrics.weights import find_config
from hdpainter.models.registry import read_yaml
from ldm.util import UserError, instantiate_from_config

__all__ = ["METRICS", "Metric", "Value", "make_metric", "read_metrics"]

METRICS = {
    "clip": "eval.metrics.clip.ClipScore",
    "accuracy": "eval.metrics.accuracy.Accuracy",
    "pickscore": "eval.metrics.pickscore.PickScore",
    "minipick": "eval.metrics.pickscore.MiniPick",
    "fidelity": "eval.metrics.fidelity.Fidelity",
    "seam": "eval.metrics.seam.Seam",
    "saturation": "eval.metrics.saturation.Saturation",
}
_WITH_WEIGHTS = ("clip", "accuracy", "pickscore", "minipick")


def make_metric(
    name: str,
    params: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    download: bool = False,
) -> Metric:
    """The metric `name` with the parameters of its class.

    download: fetch weights that are missing. Raises UserError for unknown names and parameters, and for missing
    weights.
    """
    if name not in METRICS:
        raise UserError(f"there is no metric {name!r}; there are {', '.join(METRICS)}")
    extra = {"device": device} | ({"download": download} if name in _WITH_WEIGHTS else {})
    return instantiate_from_config({"target": METRICS[name], "params": dict(params or {})}, **extra)


def read_metrics(source: str | Path | Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Parameters by metric: a mapping, or a YAML file (also of ``configs/eval``) whose `metrics` is one.

    Raises UserError if it is not.
    """
    where = "metrics"
    if not isinstance(source, Mapping):
        name = str(source)
        known = name if Path(name).suffix in (".yaml", ".yml") else f"eval/{name}.yaml"
        path = find_config(known, "the config of the metrics")
        where, source = f"{path}: metrics", read_yaml(path).get("metrics")
        if isinstance(source, str):  # it refers to another file
            return read_metrics(source)
    if not isinstance(source, Mapping) or not source:
        raise UserError(f"{where} must map names of metrics to their parameters")
    for name, params in source.items():
        if name not in METRICS:
            raise UserError(f"{where}: there is no metric {name!r}; there are {', '.join(METRICS)}")
        if not isinstance(params, Mapping | None):
            raise UserError(f"{where}: {name} must be a mapping of parameters, not {params!r}")
    return {name: dict(params or {}) for name, params in source.items()}
