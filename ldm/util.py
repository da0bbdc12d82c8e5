"""Small helpers that the configs and modules share."""

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from torch import nn  # the configs and their checks do without torch, which takes seconds to import

# In a wheel the configs lie inside the package, in a checkout beside it.
_PACKAGED = Path(__file__).resolve().parent / "configs"
CONFIGS = _PACKAGED if _PACKAGED.is_dir() else _PACKAGED.parents[1] / "configs"


class UserError(ValueError):
    """A mistake that the user can mend. The message is one line, too long words cut: what, where, and the fix."""

    def __init__(self, message: str):
        super().__init__(re.sub(r"\S{400,}", lambda found: cut(found.group(), 100), message))


def shown(value: Any, limit: int = 100) -> str:
    """`value` as a message quotes it: its repr, cut after `limit` characters."""
    try:
        return cut(repr(value), limit)
    except (ValueError, RecursionError):  # Python writes out no whole number of more than 4,300 digits
        return f"a {type(value).__name__} too long to show"


def cut(text: str, limit: int) -> str:
    """`text`, without what goes beyond `limit` characters."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"


def refuse_device(path: str | Path) -> None:
    """Raise UserError for a pipe, a socket or a device: to read one may never end."""
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        raise UserError(f"{path} is a pipe, a socket or a device: give the path of a file")


def leaves(content: Any, key: Any = None) -> Iterator[tuple[Any, Any]]:
    """(key, value) of all plain values in mappings and lists, at whatever depth; those of a list have its key."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from leaves(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from leaves(value, key)
    else:
        yield key, content


def exists(value: Any) -> bool:
    """Whether `value` is not None."""
    return value is not None


def default(value: Any, fallback: Any) -> Any:
    """`value`, or `fallback` if it is None; a callable fallback is called."""
    return value if value is not None else (fallback() if inspect.isfunction(fallback) else fallback)


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
        raise UserError(f"target {shown(target)} is not of the form package.module.Name")
    try:
        return getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        if not module_name.startswith(error.name or module_name):
            raise  # the module exists, something that it imports does not
        raise UserError(f"target {shown(target)}: there is no module {error.name!r}") from None
    except AttributeError:
        raise UserError(f"target {shown(target)}: module {module_name!r} has no {name!r}") from None


def instantiate_from_config(config: Mapping[str, Any] | DictConfig, **extra: Any) -> Any:
    """Build the object that a config describes: ``{"target": dotted name of a class, "params": its arguments}``.

    Keyword arguments given here are added to `params`. Raises UserError for a target that cannot be imported or
    is no class, for a parameter that it does not take and for one that it misses.
    """
    content: Any = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
    if not isinstance(content, Mapping) or "target" not in content:
        raise UserError(f"a config needs a 'target' (and 'params'), got {shown(content)}")
    target, params = content["target"], content.get("params") or {}
    if not isinstance(target, str):
        raise UserError(f"target {shown(target)} is not of the form package.module.Name")
    if not isinstance(params, Mapping):
        raise UserError(f"{target}: params must be a mapping of names to values, not {shown(params)}")
    factory = get_obj_from_str(target)
    ours = ("ldm.", "hdpainter.")
    if not inspect.isclass(factory) or (target.startswith(ours) and not factory.__module__.startswith(ours)):
        raise UserError(f"target {shown(target)} is no class")
    _check_params(target, factory, params := {**params, **extra})
    return factory(**params)


def _check_params(target: str, factory: type, params: Mapping[str, Any]) -> None:
    """Raise UserError unless `factory` takes `params`.

    A class may hand ``**kwargs`` on to its base classes, so their parameters count too, up to the first
    constructor without ``**kwargs``.
    """
    levels = [vars(level)["__init__"] for level in inspect.getmro(factory) if "__init__" in vars(level)]
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
    if unknown := [name for name in params if name not in known]:
        raise UserError(
            f"{target} has no parameter {shown(unknown[0])}; it takes {', '.join(dict.fromkeys(known))}"
        )
