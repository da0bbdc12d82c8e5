"""What all metrics have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

Value = float | int | str | None
"""A figure or a word about one result; None where the metric is not defined for it, or was not run."""

Arrays = Sequence[np.ndarray]


class Metric(ABC):
    """Scores results, one by one or in batches of any sizes; the figures do not depend on the batches.

    name: under which the scores are stored. columns: what is measured, see the class. label: what a table
    prints; it says so when a miniature model is the judge.

    Models are loaded when the first batch comes; that their files are there is checked at construction.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    label: str

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values that determine the figures: scores made with others are made anew."""
        return {}

    def check(self, prompts: Sequence[str]) -> None:
        """Raise UserError if there is a prompt that the metric cannot judge."""
        return None

    @property
    def notes(self) -> list[str]:
        """What is left out, and why."""
        return []

    @abstractmethod
    def __call__(
        self,
        images: Arrays,
        masks: Arrays,
        prompts: Sequence[str],
        originals: Arrays,
    ) -> dict[str, list[Value]]:
        """The values of each column for a batch of results.

        images, originals: RGB uint8 [H, W, 3], the result and the picture that it was made from, of one size.
        masks: bool [H, W], True where the result was filled in. prompts: what was to be there.
        """
