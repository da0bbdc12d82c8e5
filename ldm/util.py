"""Small helpers that the configs and modules share."""

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

if TYPE_CHECKING:
    from torch import nn  # the configs and their checks do without torch, which takes seconds to import

# In a wheel the configs lie inside the package, in a checkout beside it.
_PACKAGED = Path(__file__).resolve().parent / "configs"
CONFIGS = _PACKAGED if _PACKAGED.is_dir() else _PACKAGED.parents[1] / "configs"


class UserError(ValueError):
    """A mistake that the user can mend. The message is one line: what is wrong, where, and the fix."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError naming the file if there is none."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping, not {type(content).__name__}")
    return content


def read_model_config(path: str | Path) -> dict[str, Any]:
    """The `model` (target and params) of an SD2-style YAML config. Raises UserError if there is none."""
    model = read_yaml(path).get("model")
    if not isinstance(model, dict) or "target" not in model:
        raise UserError(f"{path} is not a model's config: it has no 'model' with a 'target'")
    return model


def exists(value: Any) -> bool:
    """Whether `value` is not None."""
    return value is not None


def default(value: Any, fallback: Any) -> Any:
    """`value`, or `fallback` if it is None; a callable fallback is called."""
    if value is not None:
        return value
    return fallback() if inspect.isfunction(fallback) else fallback


def count_params(model: "nn.Module", verbose: bool = False) -> int:
    """The number of parameters of `model`; `verbose` also prints it in millions."""
    total = sum(parameter.numel() for parameter in model.parameters())
    if verbose:
        print(f"{type(model).__name__} has {total / 1e6:.2f} M parameters")
    return total


def get_obj_from_str(target: str) -> Any:
    """The object that a dotted name such as ``ldm.models.autoencoder.AutoencoderKL`` stands for.

    Raises UserError if there is no such module or name.
    """
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise UserError(f"target {target!r} is not of the form package.module.Name")
    try:
        return getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        if not module_name.startswith(error.name or module_name):
            raise  # the module exists, something that it imports does not
        raise UserError(f"target {target!r}: there is no module {error.name!r}") from None
    except AttributeError:
        raise UserError(f"target {target!r}: module {module_name!r} has no {name!r}") from None


def instantiate_from_config(config: Mapping[str, Any] | DictConfig, **extra: Any) -> Any:
    """Build the object that a config describes: ``{"target": dotted name, "params": keyword arguments}``.

    Keyword arguments given here are added to `params`. Raises UserError for a target that cannot be imported,
    for a parameter that it does not take and for one that it misses.
    """
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=True)
    if not isinstance(config, Mapping) or "target" not in config:
        raise UserError(f"a config needs a 'target' (and 'params'), got {config!r}")
    target, params = config["target"], config.get("params") or {}
    if not isinstance(target, str):
        raise UserError(f"target {target!r} is not of the form package.module.Name")
    if not isinstance(params, Mapping):
        raise UserError(f"{target}: params must be a mapping of names to values, not {params!r}")
    factory = get_obj_from_str(target)
    params = {**params, **extra}
    _check_params(target, factory, params)
    return factory(**params)


def _check_params(target: str, factory: Any, params: Mapping[str, Any]) -> None:
    """Raise UserError unless `factory` takes `params`.

    A class may hand ``**kwargs`` on to its base classes, so their parameters count too, up to the first
    constructor without ``**kwargs``.
    """
    levels = [factory]
    if inspect.isclass(factory):
        levels = [level.__init__ for level in inspect.getmro(factory) if "__init__" in vars(level)]
    known: list[str] = []
    for level in levels:
        signature = inspect.signature(level).parameters.values()
        named = [
            p for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"
        ]
        known += [p.name for p in named]
        missing = [p.name for p in named if p.default is p.empty and p.name not in params]
        if missing and level is levels[0]:
            raise UserError(f"{target} needs the parameter {missing[0]!r}")
        if not any(p.kind is p.VAR_KEYWORD for p in signature):
            break
    else:
        return  # takes anything
    unknown = [name for name in params if name not in known]
    if unknown:
        raise UserError(
            f"{target} has no parameter {unknown[0]!r}; it takes {', '.join(dict.fromkeys(known))}"
        )
