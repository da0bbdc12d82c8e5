"""What a member of a team is, and what is left to do."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

DEATHS = 3  # of members, after which an item is given up
HOPELESS = 12  # deaths in a row, with nothing done between them, after which all is given up

Member = Callable[[Sequence[Any]], Sequence[Any]]
"""Does the items of a group and gives back a result for each. What fails is a result too: an error that a member
raises ends the work of all."""

Recruit = Callable[[str | None, int], Member]
"""Makes a member, who loads its models: on a device (None: the first of cuda, mps and cpu there is), of a machine
with that many members in all. For other processes it must be picklable."""


@dataclass(frozen=True)
class Lost:
    """In the place of a result: members died, time and again, of this item."""

    message: str


class Team(Protocol):
    """Members who do groups of items."""

    def work(self, groups: Iterable[Sequence[Any]]) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
        """The groups in the order in which they are done, each with a result, or `Lost`, for each of its items.

        A group of which a member died comes back as its items one by one. `groups` is asked for the next one only
        when a member has time. Raises what a member raises, or RuntimeError where they keep dying.
        """
        ...


@dataclass(frozen=True)
class Group:
    """Items to be done at once, and how many members have died of it."""

    items: Sequence[Any]
    deaths: int = 0


class Agenda:
    """The groups that are left."""

    def __init__(self, groups: Iterable[Sequence[Any]]):
        self._coming = iter(groups)
        self._again: deque[Group] = deque()
        self._in_a_row = 0

    def take(self) -> Group | None:
        """The next group; None where all are handed out."""
        if self._again:
            return self._again.popleft()
        items = next(self._coming, None)
        return None if items is None else Group(items)

    def put_back(self, group: Group) -> None:
        """A group that nobody has begun is to be done after all."""
        self._again.appendleft(group)

    def done(self) -> None:
        """A member has done a group."""
        self._in_a_row = 0

    def died(self, group: Group, cause: str) -> list[Lost]:
        """What becomes of a group during which a member died: its items are tried one by one, or are lost.

        Raises RuntimeError where members do nothing but die.
        """
        self._in_a_row += 1
        if self._in_a_row == HOPELESS:
            raise RuntimeError(f"members of the team died {HOPELESS} times in a row, the last one: {cause}")
        deaths = group.deaths + 1
        if deaths == DEATHS:
            return [Lost(f"{DEATHS} members of the team died of it, the last one: {cause}")] * len(
                group.items
            )
        self._again.extendleft(Group([item], deaths) for item in reversed(group.items))
        return []
