"""The actors of a Ray cluster: one for each GPU, or for each machine where there are none."""

import contextlib
import itertools
import os
import pickle
import platform
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdpainter.console import one_line
from hdpainter.team.base import Agenda, Group, Member, Recruit
from hdpainter.version import __version__
from ldm.util import UserError

KNOCK = 10  # seconds for a cluster to be reached


class Cluster:
    """Context manager: connects to the cluster, and makes one on this machine where there is none.

    address: of the cluster, as ``ray://head:10001``; None: RAY_ADDRESS, or the one that runs on this machine.
    count: how many actors; None: as many as GPUs, or as machines where there are none.
    """

    def __init__(self, recruit: Recruit, address: str | None = None, count: int | None = None):
        self._recruit, self._address, self._count = recruit, address, count
        self._actors: set[Any] = set()
        self._connected = False

    def __enter__(self) -> "Cluster":
        ray = _ray()
        if not ray.is_initialized():  # a notebook may have its own
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
            address = self._address or os.environ.get("RAY_ADDRESS")
            try:
                if address:
                    _knock(address)
                options = {} if address else {"include_dashboard": False}
                ray.init(self._address, logging_level="ERROR", log_to_driver=False, **options)
            except (OSError, OverflowError, RuntimeError, ValueError) as error:
                where = address or "this machine"
                raise UserError(f"there is no Ray cluster at {where}: {one_line(error)}") from None
            self._connected = True
        try:
            count, needs = _share(ray.nodes(), self._count)
            self._kind = ray.remote(_Actor).options(max_restarts=0, max_task_retries=0, **needs)
            for _ in range(count):
                self._start()
            self._check()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        ray = _ray()
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()
        if self._connected:
            ray.shutdown()

    def _start(self) -> Any:
        actor = self._kind.remote(self._recruit, str(Path.cwd()), __version__)
        self._actors.add(actor)
        return actor

    def _check(self) -> None:
        """Raise UserError where a member cannot even start, such as where the project is not installed."""
        ray = _ray()
        first, _ = ray.wait([actor.ready.remote() for actor in self._actors])
        try:
            ray.get(first[0])
        except ray.exceptions.RayError as error:
            raise UserError(f"no member of the Ray cluster can start: {one_line(error)}") from None

    def work(self, groups: Iterable[Sequence[Any]]) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
        """See `Team`."""
        ray = _ray()
        agenda, pool, numbers = Agenda(groups), ray.util.ActorPool(list(self._actors)), itertools.count()
        under_way: dict[int, _UnderWay] = {}

        def send(actor: Any, group: Group) -> Any:
            number = next(numbers)
            answer = actor.work.remote(number, pickle.dumps(group.items))
            under_way[number] = _UnderWay(actor, group, answer)
            return answer

        while True:
            while pool.has_free() and (group := agenda.take()) is not None:
                pool.submit(send, group)
            if not pool.has_next():
                return
            try:
                number, content = pool.get_next_unordered()
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError as outage:
                if not isinstance(outage, ray.exceptions.ActorDiedError):
                    pool.pop_idle()  # the pool takes it for alive, and has put it back last
                for number, error in _failed(under_way):
                    dead = under_way.pop(number)
                    self._actors.discard(dead.actor)
                    ray.kill(dead.actor)  # it may only have been out of reach
                    pool.push(self._start())
                    if lost := agenda.died(dead.group, one_line(error)):
                        yield dead.group.items, lost
                continue
            agenda.done()
            done, answer = under_way.pop(number).group, pickle.loads(content)
            if isinstance(answer, Exception):  # the member had to give up
                raise answer
            yield done.items, answer


@dataclass(frozen=True)
class _UnderWay:
    actor: Any
    group: Group
    answer: Any


def _failed(under_way: Mapping[int, _UnderWay]) -> list[tuple[int, Exception]]:
    """Whose answers will not come, and why: the pool's error does not say which it is."""
    ray = _ray()
    answers = {each.answer: number for number, each in under_way.items()}
    failed = []
    for answer in ray.wait(list(answers), num_returns=len(answers), timeout=0)[0] if answers else ():
        try:
            ray.get(answer)
        except ray.exceptions.RayError as error:
            failed.append((answers[answer], error))
    return failed


class _Actor:
    """A member. Items and results are pickled here: arrays that Ray hands over cannot be written to."""

    def __init__(self, recruit: Recruit, folder: str, version: str):
        self._recruit, self._version = recruit, version
        self._member: Member | None = None
        with contextlib.suppress(OSError):  # where there is the driver's folder, its relative paths hold
            os.chdir(folder)

    def ready(self) -> None:
        """Does nothing, and that only once the actor has started."""

    def work(self, number: int, content: bytes) -> tuple[int, bytes]:
        try:
            return number, pickle.dumps(self._answer(pickle.loads(content)))
        except UserError as error:
            return number, pickle.dumps(error)
        except Exception as error:
            return number, pickle.dumps(RuntimeError(f"{platform.node()}: {one_line(error)}"))

    def _answer(self, items: Sequence[Any]) -> Sequence[Any]:
        if self._version != __version__:
            raise UserError(
                f"{platform.node()} has hdpainter {__version__} and the driver {self._version}: make them one"
            )
        if self._member is None:
            self._member = self._recruit(None, 1)  # Ray itself says how many threads and which GPU
        return self._member(items)


def _knock(address: str) -> None:
    """Raise OSError or OverflowError where nobody listens at an address with a port; Ray would try for long."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK).close()


def _share(nodes: Sequence[Mapping[str, Any]], count: int | None) -> tuple[int, dict[str, Any]]:
    """How many actors, and what each needs of the cluster. Raises UserError where it does not have that much."""
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = int(sum(machine.get("GPU", 0) for machine in machines))
    cores = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1]
    if not cores:
        raise UserError("the Ray cluster has no processor cores to give: start its workers first")
    needs: dict[str, Any] = {"scheduling_strategy": "SPREAD"}
    if gpus:
        needs |= {"num_gpus": 1, "num_cpus": 1}
        most, what = gpus, "GPUs"
    else:
        needs["num_cpus"] = max(min(*cores, sum(cores) // (count or len(cores))), 1)
        most, what = sum(number // needs["num_cpus"] for number in cores), "processor cores"
    count = count or (gpus or len(cores))
    if count > most:
        raise UserError(f"{count} actors are more than the Ray cluster has {what} for: give at most {most}")
    return count, needs


def _ray() -> Any:
    try:
        import ray
        import ray.util
    except ImportError:
        raise UserError("Ray is not installed: pip install -e '.[cluster]'") from None
    return ray
