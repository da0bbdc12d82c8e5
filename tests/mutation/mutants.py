"""Small changes of a module's code, one at a time: what a slip of the pen would make of it."""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_OTHER: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_NAMES = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "ceil": "floor",
    "floor": "ceil",
    "any": "all",
    "all": "any",
    "zeros": "ones",
    "ones": "zeros",
    "zeros_like": "ones_like",
    "ones_like": "zeros_like",
}
_WORDS = {
    "reflect": "edge",
    "edge": "reflect",
    "nearest": "bicubic>0",
    "bicubic>0": "nearest",
    "left": "right",
}
_UNWRAPPED = {"rint", "clip", "round", "abs", "sorted"}  # calls of which the first argument may be left alone


@dataclass(frozen=True)
class Mutant:
    """A change: where, in words, and the code of the whole module with it.

    function: the qualified name of the outermost function or method around it, "" at the top of module or class.
    lines: those of its statement, of compound ones their head; one of them runs where the change matters.
    """

    line: int
    change: str
    code: str
    function: str
    lines: range


def mutants(source: str) -> Iterator[Mutant]:
    """All small changes of a module. Annotations, docstrings and messages of errors stay as they are."""
    tree = ast.parse(source)
    places = _places(tree)
    for index, node in enumerate(_changeable(tree)):
        if _change(copy.deepcopy(node)):
            changed = copy.deepcopy(tree)
            target = _changeable(changed)[index]
            before = ast.unparse(target)
            _change(target)
            change = f"{before}  ->  {ast.unparse(target)}"
            yield Mutant(node.lineno, change, ast.unparse(changed), *places[node])


def _places(tree: ast.Module) -> dict[ast.AST, tuple[str, range]]:
    """The function and the lines of every node, as `Mutant` has them."""
    found: dict[ast.AST, tuple[str, range]] = {}

    def visit(node: ast.AST, names: tuple[str, ...], function: str, lines: range) -> None:
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
            lines = range(node.lineno, end + 1)
        found[node] = function, lines
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for name, value in ast.iter_fields(node):
            inner, inside = names, function
            if named and name == "body":
                inner = (*names, node.name)
                if not isinstance(node, ast.ClassDef):
                    inside = function or ".".join(inner)
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child, inner, inside, lines)

    visit(tree, (), "", range(0))
    return found


def _changeable(tree: ast.AST) -> list[ast.expr | ast.stmt]:
    """The nodes of code that computes, in order."""
    found: list[ast.expr | ast.stmt] = []

    def visit(node: ast.AST) -> None:
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom):
                    continue
                if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                    continue  # a docstring
                if isinstance(child, ast.AST):
                    if isinstance(child, ast.expr | ast.stmt) and hasattr(child, "lineno"):
                        found.append(child)
                    visit(child)

    visit(tree)
    return found


def _change(node: ast.AST) -> bool:
    """Change `node` in place; False where there is nothing to change."""
    match node:
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign() if type(node.op) in _OTHER:
            node.op = _OTHER[type(node.op)]()
        case ast.Compare() if type(node.ops[0]) in _OTHER:
            node.ops[0] = _OTHER[type(node.ops[0])]()
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
            if isinstance(node.op, ast.Not):
                node.operand = ast.UnaryOp(ast.Not(), node.operand)
        case ast.Constant(value=bool()):
            node.value = not node.value
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            node.value = node.value + 1
        case ast.Constant(value=str()) if node.value in _WORDS:
            node.value = _WORDS[node.value]
        case ast.Call(func=ast.Attribute() | ast.Name()):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if name in _NAMES:
                if isinstance(node.func, ast.Attribute):
                    node.func.attr = _NAMES[name]
                else:
                    node.func.id = _NAMES[name]
            elif name in _UNWRAPPED and node.args:
                node.func, node.args, node.keywords = ast.Name("(lambda x: x)"), node.args[:1], []
            else:
                return False
        case ast.IfExp():
            node.body, node.orelse = node.orelse, node.body
        case ast.If():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case _:
            return False
    return True
