"""A module's other code, put where the module is: at its import, or into its functions later."""

import importlib.abc
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def name_of(module: str) -> str:
    """``a/b.py`` -> ``a.b``."""
    return module.removesuffix(".py").replace("/", ".")


class Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from other code."""

    def __init__(self, module: str, code: str):
        self.name, self.path, self.code = name_of(module), ROOT / module, code

    def find_spec(self, fullname: str, path: object, target: object = None) -> object:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.code, str(self.path), "exec"), vars(module))


def replace(module: str, code: str, function: str) -> None:
    """Give the imported module's function the code that it has in other code of the module.

    Whoever imported the function by name has the change too. Raises LookupError where it is not found as a plain
    function, method or property.
    """
    codes = {text.co_qualname: text for text in _codes(compile(code, str(ROOT / module), "exec"))}
    found = [item for item in _functions(vars(sys.modules[name_of(module)])) if item.__qualname__ == function]
    if not found or function not in codes:
        raise LookupError(function)
    for item in found:
        item.__code__ = codes[function]


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _functions(names: Any) -> Iterator[FunctionType]:
    """The functions of a module or class, those within decorators and properties too."""
    for item in [*names.values()]:
        if isinstance(item, type) and item.__module__ == names.get("__name__", names.get("__module__")):
            yield from _functions(vars(item))
        for part in (item, *(getattr(item, name, None) for name in ("__func__", "fget", "fset", "func"))):
            while (inner := getattr(part, "__wrapped__", None)) is not None:
                part = inner  # a decorator's function bears the name of the one within
            if isinstance(part, FunctionType):
                yield part
