"""Explaining pictures: what the methods did to one sample, in figures and numbers.

from hdpainter.explain import explain
explain(painter, image, mask, "a red kite").save("explained")
"""

from hdpainter.explain.explanation import Explanation, by_name, explain
from hdpainter.explain.observation import Explained

__all__ = ["Explained", "Explanation", "by_name", "explain"]
