"""Small helpers that the configs and modules share."""

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from torch import nn  # the configs and their checks do without torch, which takes seconds to import

# In a wheel the configs lie inside the package, in a checkout beside it.
_PACKAGED = Path(__file__).resolve().parent / "configs"
CONFIGS = _PACKAGED if _PACKAGED.is_dir() else _PACKAGED.parents[1] / "configs"

# What a file may name without being trusted: classes of this project, and what SD2's public configs name besides.
_TARGETS = re.compile(
    r"(ldm|hdpainter\.(baselines|mini))(\.[a-z]\w*)*\.[A-Z]\w*"
    r"|torch\.nn\.Identity|torch\.optim\.lr_scheduler\.[A-Z]\w*"
)


class UserError(ValueError):
    """A mistake that the user can mend. The message is one line: what is wrong, where, and the fix."""


def shown(value: Any, limit: int = 100) -> str:
    """`value` as a message quotes it: its repr, cut after `limit` characters."""
    try:
        return _cut(repr(value), limit)
    except (ValueError, RecursionError):  # Python writes out no whole number of more than 4,300 digits
        return f"a {type(value).__name__} too long to show"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"


def refuse_device(path: str | Path) -> None:
    """Raise UserError for a pipe, a socket or a device: to read one may never end."""
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        raise UserError(f"{path} is a pipe, a socket or a device: give the path of a file")


def read_yaml(path: str | Path, trusted: bool = False) -> dict[str, Any]:
    """The mapping in a YAML file; that of an empty file is empty. Raises UserError naming the file otherwise.

    Files may come from anybody. So every `target` in one, which `instantiate_from_config` would import and call,
    must be a network of this project unless the file is `trusted`, and nothing may refer to other values: those
    of ``${oc.env:HOME}`` are the user's own.
    """
    refuse_device(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    content = parse_yaml(text, path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping, not {type(content).__name__}")
    for key, value in leaves(content):
        if isinstance(value, str) and "${" in value:
            raise UserError(
                f"{path}: {shown(value)} refers to another value, which is not followed: write it out"
            )
        if key == "target" and isinstance(value, str) and not (trusted or _is_harmless(value)):
            raise UserError(
                f"{path}: target {shown(value)} is no network of this project (ldm., hdpainter.): a config that "
                "may name anything may run anything, so this takes trust in whoever wrote it"
            )
    return content


def _is_harmless(target: str) -> bool:
    """Whether what a target names may be built; without a dot it names nothing."""
    return "." not in target or _TARGETS.fullmatch(target) is not None


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


def read_model_config(path: str | Path, trusted: bool = False) -> dict[str, Any]:
    """The `model` (target and params) of an SD2-style YAML config; `trusted` as for `read_yaml`.

    Raises UserError if there is none.
    """
    model = read_yaml(path, trusted).get("model")
    if not isinstance(model, dict) or "target" not in model:
        raise UserError(f"{path} is not a model's config: it has no 'model' with a 'target'")
    return model


# --- YAML that anybody may have written ---

_UNFOLDED = 1_000_000  # nodes that aliases may add to those that are written out
_DIGITS = 100  # of a whole number
_DEEPEST = 100  # brackets within brackets
_TAG = "tag:yaml.org,2002:"
_PLAIN = {_TAG + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}


class _PlainLoader(yaml.SafeLoader):
    """Plain values only, with dates as text and numbers such as 1e-4, and nothing that unfolds without bounds."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, form) for tag, form in known if tag not in (_TAG + "timestamp", _TAG + "float")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        if self.flow_level == _DEEPEST:  # far more would also be slow to scan
            raise RecursionError
        super().fetch_flow_collection_start(token)

    def get_single_node(self) -> yaml.Node | None:
        root = super().get_single_node()
        if root is not None:
            sizes: dict[yaml.Node, int] = {}
            if _measure(root, sizes) - len(sizes) > _UNFOLDED:
                raise UserError(f"aliases (*name) would unfold to over {_UNFOLDED:,} values; write them out")
        return root


_PlainLoader.add_implicit_resolver(
    _TAG + "float",
    re.compile(
        r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.?\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*|\.(inf|Inf|INF))$"
        r"|\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, name: str | Path) -> Any:
    """The plain values of a YAML text. Raises UserError, which begins with `name`, for everything else.

    A key that stands twice is refused, as are tags, numbers of over 100 digits, and aliases that refer to
    themselves or would unfold to over a million values.
    """
    try:
        return yaml.load(text, _PlainLoader)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except RecursionError:
        raise UserError(f"{name} is not valid YAML: it is nested too deeply") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split()).replace('in "<unicode string>", ', "in ")
        raise UserError(f"{name} is not valid YAML: {_cut(reason, 300)}") from None
    except Exception as error:  # PyYAML's constructors raise nearly anything, as for !!int ""
        raise UserError(f"{name} is not valid YAML: {_cut(str(error), 300)}") from None


def _measure(node: yaml.Node, sizes: dict[yaml.Node, int]) -> int:
    """How many nodes there are from `node` down once aliases are unfolded; `sizes` has those that are known."""
    if node in sizes:
        if not sizes[node]:
            raise UserError(f"{_line(node)}: an alias refers to what it is part of; write it out")
        return sizes[node]
    if node.tag not in _PLAIN:
        raise UserError(f"{_line(node)}: {shown(node.tag)} is no plain value; take the tag away")
    if node.tag == f"{_TAG}int" and len(node.value) > _DIGITS:
        raise UserError(f"{_line(node)}: a number of {len(node.value):,} digits; give at most {_DIGITS}")
    sizes[node] = 0
    parts = [] if isinstance(node, yaml.ScalarNode) else node.value
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key in (key for key, _ in parts if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise UserError(f"{_line(key)}: key {shown(key.value)} stands twice in one mapping")
            seen.add((key.tag, key.value))
        parts = [part for pair in parts for part in pair]
    sizes[node] = 1 + sum(_measure(part, sizes) for part in parts)
    return sizes[node]


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


# --- configs into objects ---


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
    if not inspect.isclass(factory):
        raise UserError(f"target {shown(target)} is no class")
    params = {**params, **extra}
    _check_params(target, factory, params)
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
    unknown = [name for name in params if name not in known]
    if unknown:
        raise UserError(
            f"{target} has no parameter {shown(unknown[0])}; it takes {', '.join(dict.fromkeys(known))}"
        )
