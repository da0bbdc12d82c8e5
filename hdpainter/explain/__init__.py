"""Explaining pictures: what the methods did to one sample, in figures and numbers.

from hdpainter.explain import explain
explain(painter, image, mask, "a red kite").save("explained")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hdpainter.explain.explanation import Explanation, by_name, explain

__all__ = ["Explanation", "by_name", "explain"]


def __getattr__(name: str) -> Any:
    # The networks take seconds to import; the command line's help does not need them.
    if name in __all__:
        from hdpainter.explain import explanation

        return getattr(explanation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
