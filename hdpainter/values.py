"""Values from people, files and programs made into checked settings.

A settings class is a frozen dataclass that inherits `Checked`. Its annotations say all that is checked: the type,
the range of a number (``Annotated[int, Range(1, 1000)]``), the choices of a word (``Literal``), and ``| None``
where nothing may be given. So a value is judged alike at every door: a flag, a job file, a form, Python.
"""

import dataclasses
import difflib
import functools
import math
import operator
import re
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any, Literal

from ldm.util import UserError

KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}  # for error messages
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
LONGEST = 60  # characters of a value that a message quotes


@dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`, both included, and with `step` its multiples only.

    wanted: what they are, in the words of an error message, where the plain ones do not tell enough.
    """

    low: float = -math.inf
    high: float = math.inf
    wanted: str = ""
    step: int | None = None

    def __contains__(self, number: float) -> bool:
        fits = self.low <= number <= self.high and abs(number) != math.inf
        return fits and (self.step is None or number % self.step == 0)

    def __str__(self) -> str:
        finite = math.isfinite(self.low) and math.isfinite(self.high)
        return self.wanted or (f"a number from {self.low} to {self.high}" if finite else "a finite number")


@dataclass(frozen=True)
class Matching:
    """The texts that match a pattern as a whole; `wanted` says what they are, for an error message."""

    pattern: str
    wanted: str

    def __contains__(self, text: str) -> bool:
        return re.fullmatch(self.pattern, text) is not None

    def __str__(self) -> str:
        return self.wanted


class Checked:
    """Base of frozen dataclasses whose values are checked when they are made, and plain: an int is an int, not
    numpy's, and a float is a float where a whole number was given. Raises UserError that names the field."""

    def __post_init__(self) -> None:
        for name, kind in kinds(type(self)).items():  # type: ignore[arg-type]  # mypy takes classes for unhashable
            object.__setattr__(self, name, convert(kind, getattr(self, name), name))


@functools.cache
def kinds(cls: type) -> Mapping[str, Any]:
    """The fields of a dataclass and their annotations, in order; without those that no file may set."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


@functools.cache
def places(cls: type) -> Mapping[str, Any]:
    """The kinds of all values in a tree of dataclasses by their place: ``{"rasg": ..., "rasg.sigma": ...}``."""
    found = {}
    for name, kind in kinds(cls).items():
        found[name] = kind
        part = required(kind)
        if _has_fields(part):
            found |= {f"{name}.{place}": inner for place, inner in places(part).items()}
    return found


def _has_fields(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)


def at(settings: Any, place: str) -> Any:
    """The value at a place of a tree of dataclasses; None where its part is off."""
    for name in place.split("."):
        settings = None if settings is None else getattr(settings, name)
    return settings


def required(kind: Any) -> Any:
    """The annotation without ``| None``."""
    if typing.get_origin(kind) not in (types.UnionType, typing.Union):
        return kind
    return next(option for option in typing.get_args(kind) if option is not type(None))


def from_mapping(cls: type, values: Mapping[str, Any], where: str = "") -> Any:
    """Build the settings dataclass `cls` from plain values, checking names and types; `where` is for messages.

    Raises UserError that names the key, its place and what would be right.
    """
    return _build(cls, values, where, f"{where}: " if where else "")


def _build(cls: type, values: Mapping[str, Any], where: str, prefix: str) -> Any:
    check_keys(values, kinds(cls), where)
    checked = {key: convert(kinds(cls)[key], value, f"{prefix}{key}") for key, value in values.items()}
    try:
        return cls(**checked)
    except UserError as error:  # of values that do not go together
        raise UserError(f"{where}: {error}" if where else str(error)) from None


def check_keys(keys: Collection[Any], known: Collection[str], where: str = "") -> None:
    """Raise UserError for the first key that is not among the known ones, with the nearest of them."""
    for key in keys:
        if key not in known:
            advice = nearest(quoted(key).strip("'"), known) or f"known keys: {', '.join(known)}"
            raise UserError(f"{f'{where}: ' if where else ''}unknown key {quoted(key)}; {advice}")


def nearest(name: str, known: Collection[str]) -> str:
    """ "did you mean 'this'?", where one of the known names is near; else nothing."""
    folded = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.65)
    return f"did you mean {folded[close[0]]!r}?" if close else ""


def unknown(what: str, name: Any, known: Collection[str], besides: str = "") -> UserError:
    """The error of a name that there is not: the nearest one, all that there are, `besides`: what else fits."""
    guess = nearest(str(name), known)
    return UserError(
        f"unknown {what} {quoted(name)}; {f'{guess} ' if guess else ''}known: {', '.join(known)}{besides}"
    )


def convert(kind: Any, value: Any, name: str) -> Any:
    """`value` as the annotation `kind` has it: a whole 3.0 is an int, an int a float, a mapping a dataclass.

    name: what messages call it. Raises UserError for a value of another kind or out of range.
    """
    if value is None and type(None) in typing.get_args(kind):
        return None
    kind = required(kind)
    limits: list[Range | Matching] = []
    if typing.get_origin(kind) is Annotated:
        kind, *limits = typing.get_args(kind)
    plain = _plain(kind, value, name)
    for fit in limits:
        if plain not in fit:
            raise UserError(f"{name} is {quoted(plain)}: give {fit}")
    return plain


def _plain(kind: Any, value: Any, name: str) -> Any:
    if _has_fields(kind):
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise UserError(f"{name} must be a mapping, not {quoted(value)}")
        return _build(kind, value, name, f"{name}.")
    if typing.get_origin(kind) in (list, tuple):  # of any length, of one kind
        if not isinstance(value, list | tuple):
            raise UserError(f"{name} must be a list, not {quoted(value)}")
        each = typing.get_args(kind)[0]
        return typing.get_origin(kind)(convert(each, one, f"{name}[{i}]") for i, one in enumerate(value))
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            choices = ", ".join(map(str, typing.get_args(kind)))
            raise UserError(f"{name} must be one of {choices}, not {quoted(value)}")
        return value
    if kind in (int, float):
        return _number(kind, value, name)
    if isinstance(kind, type) and not isinstance(value, kind):
        raise UserError(f"{name} must be {KINDS.get(kind, kind.__name__)}, not {quoted(value)}")
    return value


def _number(kind: type, value: Any, name: str) -> float:
    try:
        if kind is float and isinstance(value, Real) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, float) and value.is_integer():  # JSON and tables write 3 as 3.0
            return int(value)
        if kind is int and not isinstance(value, bool):
            return operator.index(value)
    except OverflowError:
        raise UserError(f"{name} is too large a number") from None
    except TypeError:
        pass
    raise UserError(f"{name} must be {KINDS[kind]}, not {quoted(value)}")


def parse(kind: Any, text: str) -> Any:
    """The value of a flag or a CSV cell; the text itself where it does not parse, for `convert` to complain."""
    kind = required(kind)
    if typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    try:
        if kind is bool:
            return WORDS[text.lower()]
        if kind in (int, float):
            return float(text) if kind is float or "." in text else int(text)
    except (KeyError, ValueError):
        pass
    return text


def quoted(value: Any) -> str:
    """A value for a message, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # of an int with thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
