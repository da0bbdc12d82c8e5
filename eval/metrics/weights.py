"""Where the weights of the judges lie, and how they get into models. Nothing is downloaded unless asked for."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from hdpainter.console import one_line
from hdpainter.files import parse_json
from hdpainter.models.download import download
from hdpainter.models.hashes import checkpoint_sha256
from hdpainter.models.hub import HubFile
from hdpainter.models.registry import checkpoint_folders, within
from ldm.checkpoint import INERT_GLOBALS, read_state_dict
from ldm.util import CONFIGS, UserError

HOW_TO_INSTALL = "get it as scripts/setup.sh does: pip install ./shims/opencv-python -e '.[eval]'"


class MissingWeights(UserError):
    """Weights are not there that could be downloaded."""


def find_weights(file: str | Path, urls: Sequence[str], metric: str, fetch: bool = False) -> Path:
    """The path of the weights `file`: itself, in a folder of checkpoints, or in the Hugging Face cache.

    urls: where the file comes from. fetch: download it to the first folder of checkpoints if it is missing.
    Raises UserError that names the file: MissingWeights, with its source, where it could be downloaded.
    """
    for place in (Path(file), *(folder / file for folder in checkpoint_folders())):
        if place.is_file():
            return place
    for found in filter(None, map(HubFile.at, urls)):
        cached = try_to_load_from_cache(found.repository, found.file, revision=found.revision)
        if isinstance(cached, str):
            return Path(cached)
    folders = " or ".join(map(str, checkpoint_folders()))
    if not urls:
        raise UserError(
            f"the weights {file} of the metric {metric!r} are not there (sought in {folders}); "
            "give the path of a file, or set $HDPAINTER_CHECKPOINTS to its folder"
        )
    if fetch:
        target = within(checkpoint_folders()[0], file)
        mirrors = os.environ.get("HDPAINTER_MIRRORS", "").split()
        return download([*(m.replace("{file}", target.name) for m in mirrors), *urls], target)
    raise MissingWeights(
        f"the weights {file} of the metric {metric!r} are not in {folders}; they come from {urls[0]}"
    )


def find_config(name: str | Path, what: str) -> Path:
    """The path of a file of settings: `name` itself or a file within ``configs``. UserError if there is none."""
    for place in (Path(name), CONFIGS / name):
        if place.is_file():
            return place
    raise UserError(f"{what} {name} is neither a file nor within {CONFIGS}")


def read_json(path: Path) -> dict[str, Any]:
    """A file of settings in JSON. Raises UserError if it is not one."""
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must map names of settings to values")
    return values


@contextmanager
def building(path: Path, library: str) -> Iterator[None]:
    """Say which config is at fault where the library cannot build its model; they check nothing themselves."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{path}: {library} cannot build this model: {one_line(error)}") from None


def identity(path: Path) -> dict[str, Any]:
    """What a record of scores says of the weights: the file's name and SHA-256."""
    return {"file": path.name, "sha256": checkpoint_sha256(path)}


def read_weights(path: Path, prefix: str = "", ignore: Iterable[str] = ()) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it. Pickles are read by the weights-only unpickler.

    ignore: classes of other objects in a pickle, in addition to those that ldm.checkpoint knows.
    """
    state = read_state_dict(path, (*INERT_GLOBALS, *ignore))
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not weights:
        raise UserError(f"{path} holds no weights whose names begin with {prefix!r}")
    return weights


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], path: Path, config: str) -> None:
    """Give `model` its weights. Raises UserError unless names and shapes are exactly its own."""
    state = model.state_dict()
    missing = [name for name in state if name not in weights]
    unexpected = [name for name in weights if name not in state]
    reshaped = [name for name in state if name in weights and state[name].shape != weights[name].shape]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"), (reshaped, "of another shape"))
        if names
    ]
    if problems:
        raise UserError(f"{path} does not fit {config}: weights {', '.join(problems)}")
    model.load_state_dict(weights)
