"""Reading YAML files, which anybody may have written: plain values, within bounds, and nothing that runs."""

import re
from pathlib import Path
from typing import Any

import yaml

from hdpainter.files import refuse_name
from ldm.util import UserError, cut, leaves, refuse_device, shown

# What a file may name without being trusted: classes of this project, and what SD2's public configs name besides.
_NETWORKS = re.compile(
    r"(ldm|hdpainter\.baselines)(\.[a-z]\w*)*\.[A-Z]\w*"
    r"|torch\.nn\.Identity|torch\.optim\.lr_scheduler\.[A-Z]\w*"
)
_TRAININGS = re.compile(r"hdpainter\.mini\.training(\.[a-z]\w*)*\.[A-Z]\w*")


def read_yaml(path: str | Path, trusted: bool = False, training: bool = False) -> dict[str, Any]:
    """The mapping in a YAML file; that of an empty file is empty. Raises UserError naming the file otherwise.

    Files may come from anybody. So every `target` in one, which `instantiate_from_config` would import and call,
    must be a network of this project unless the file is `trusted`, and nothing may refer to other values: those
    of ``${oc.env:HOME}`` are the user's own. training: trainings of the miniatures, which draw and write, are
    right too: the user asked for one.
    """
    refuse_name(path)
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
        if key == "target" and isinstance(value, str) and not (trusted or _is_harmless(value, training)):
            raise UserError(
                f"{path}: target {shown(value)} is no network of this project (ldm., hdpainter.): a config that "
                "may name anything may run anything; if you have read it and trust it: --trust-config"
            )
    return content


def _is_harmless(target: str, training: bool) -> bool:
    """Whether what a target names may be built; without a dot it names nothing."""
    known = _NETWORKS.fullmatch(target) or (training and _TRAININGS.fullmatch(target))
    return "." not in target or bool(known)


def read_model_config(path: str | Path, trusted: bool = False) -> dict[str, Any]:
    """The `model` (target and params) of an SD2-style YAML config; `trusted` as for `read_yaml`.

    Raises UserError if there is none, or one that is too large to be one.
    """
    model = read_yaml(path, trusted).get("model")
    if not isinstance(model, dict) or "target" not in model:
        raise UserError(f"{path} is not a model's config: it has no 'model' with a 'target'")
    if (count := sum(1 for _ in leaves(model))) > _LARGEST_MODEL:
        raise UserError(f"{path} has {count:,} values: a model's config may have {_LARGEST_MODEL:,} at most")
    return model


_LARGEST_MODEL = 10_000  # values; the time to build a model grows with them
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


class _PlainDumper(yaml.SafeDumper):
    """Quotes also what only `_PlainLoader` would take for a number."""


for _dialect in (_PlainLoader, _PlainDumper):
    _dialect.add_implicit_resolver(
        _TAG + "float",
        re.compile(
            r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.?\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*|\.(inf|Inf|INF))$"
            r"|\.(nan|NaN|NAN)$"
        ),
        list("-+0123456789."),
    )


def format_yaml(content: Any) -> str:
    """Plain values as a YAML text, keys in their order, from which `parse_yaml` makes the same again."""
    return yaml.dump(content, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=110)


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
        raise UserError(f"{name} is not valid YAML: {cut(reason, 300)}") from None
    except Exception as error:  # PyYAML's constructors raise nearly anything, as for !!int ""
        raise UserError(f"{name} is not valid YAML: {cut(' '.join(str(error).split()), 300)}") from None


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
