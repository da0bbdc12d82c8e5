"""A team of one, in this process."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hdpainter.team.base import Member, Recruit


class Here:
    """Context manager: its member is made when the first group comes."""

    def __init__(self, device: str | None, recruit: Recruit):
        self._device, self._recruit = device, recruit
        self._member: Member | None = None

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        self._member = None

    def work(self, groups: Iterable[Sequence[Any]]) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
        """See `Team`."""
        for items in groups:
            if self._member is None:
                self._member = self._recruit(self._device, 1)
            yield items, self._member(items)
