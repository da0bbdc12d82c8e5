"""A process for each device of this machine.

They are fed by the process that started them and end with it, however it ends. One that dies is replaced.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import connection, get_context, parent_process
from queue import Queue
from typing import Any

from hdpainter.console import one_line
from hdpainter.team.base import Agenda, Group, Recruit
from ldm.util import UserError

GRACE = 10  # seconds that a process may take to end
AHEAD = 2  # groups that a member has: the one it does, and the next one


class Processes:
    """Context manager: one process for each device, which must exist as often as it is named."""

    def __init__(self, devices: Sequence[str | None], recruit: Recruit):
        self._devices, self._recruit = list(devices), recruit
        self._context = get_context("spawn")
        self._members: list[_Process] = []

    def __enter__(self) -> "Processes":
        self._members = [self._start(device) for device in self._devices]
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        for member in self._members:
            member.end(wait=error is None)

    def _start(self, device: str | None) -> "_Process":
        return _Process(self._context, device, self._recruit, len(self._devices))

    def work(self, groups: Iterable[Sequence[Any]]) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
        """See `Team`."""
        agenda = Agenda(groups)
        while True:
            for _ in range(AHEAD):  # nobody gets a second one before all have a first
                self._hand_out(agenda)
            pipes = {member.pipe: member for member in self._members if member.groups}
            if not pipes:
                return
            for ready in connection.wait(list(pipes)):
                member = pipes[ready]
                try:
                    answer = member.pipe.recv()
                except (EOFError, OSError):
                    yield from self._replace(member, agenda)
                    continue
                if isinstance(answer, Exception):  # it had to give up
                    raise answer
                agenda.done()
                yield member.groups.popleft().items, answer

    def _hand_out(self, agenda: Agenda) -> None:
        for member in sorted(self._members, key=lambda member: len(member.groups)):
            if len(member.groups) < AHEAD and (group := agenda.take()) is not None:
                member.give(group)

    def _replace(self, member: "_Process", agenda: Agenda) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
        """Put another in the place of a member that died, and its groups back; those that are lost by that."""
        cause = member.end()
        began, *others = member.groups
        for group in reversed(others):
            agenda.put_back(group)
        lost = agenda.died(began, cause)
        self._members[self._members.index(member)] = self._start(member.device)
        if lost:
            yield began.items, lost


class _Process:
    """A member, and the groups that it has not answered."""

    def __init__(self, context: Any, device: str | None, recruit: Recruit, members: int):
        self.device = device
        self.groups: deque[Group] = deque()
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, device, recruit, members), name=str(device)
        )
        self._process.start()
        theirs.close()  # so that the end of the process ends the connection

    def give(self, group: Group) -> None:
        self.groups.append(group)
        with suppress(OSError):  # it has ended; what it said last, if anything, waits in the pipe
            self.pipe.send(group.items)

    def end(self, wait: bool = False) -> str:
        """End the process, or wait until it has ended by itself; how it ended."""
        if wait:
            with suppress(OSError):
                self.pipe.send(None)  # the end of its work: it gives back what it holds of the system
            self._process.join(GRACE)
        self._process.terminate()  # between groups it has nothing to lose
        self._process.join()
        self.pipe.close()
        code = self._process.exitcode
        hint = ", as it does where memory runs out" if code == -signal.SIGKILL else ""
        return f"the process on {self.device} ended with exit code {code}{hint}"


def _serve(pipe: connection.Connection, device: str | None, recruit: Recruit, members: int) -> None:
    """What runs in the process of a member."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    groups: Queue[Sequence[Any] | None] = Queue()
    threading.Thread(target=_receive, args=(pipe, groups), daemon=True).start()
    try:
        member = recruit(device, members)
        while (items := groups.get()) is not None:
            pipe.send(member(items))
    except BrokenPipeError:  # the parent is gone
        return
    except UserError as error:
        pipe.send(error)
    except Exception as error:
        pipe.send(RuntimeError(f"{device}: {one_line(error)}"))


def _receive(pipe: connection.Connection, groups: Queue[Sequence[Any] | None]) -> None:
    """Take what comes, so that the parent need not wait for this, and end with the parent."""
    parent = parent_process()
    assert parent is not None
    with suppress(EOFError, OSError):
        while pipe in connection.wait([pipe, parent.sentinel]):
            groups.put(items := pipe.recv())
            if items is None:
                return
    os._exit(1)
