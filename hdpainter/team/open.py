"""The team that the user asks for by the names of devices."""

import argparse
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager

from hdpainter.team.base import Recruit, Team
from hdpainter.team.here import Here
from hdpainter.team.processes import Processes

DEVICES_HELP = (
    "one process for each: cuda:0,cuda:1 or cpu,cpu; or a Ray cluster: ray, ray:4 (so many actors), "
    "ray://head:10001"
)
_CLUSTER = re.compile(r"(ray)(?::([1-9]\d{0,4}))?|(ray://[^,\s]+)")


def device_names(text: str) -> list[str | None]:
    """The devices of a command line's ``--devices``; its type for argparse."""
    names: list[str | None] = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(
            f"{text!r} has an empty name: give one or more, such as cuda:0,cuda:1"
        )
    rays = [name for name in names if name and name.startswith("ray")]
    if rays and (len(names) > 1 or not is_cluster(names)):
        raise argparse.ArgumentTypeError(f"{text!r} is no cluster: give ray, ray:4 or ray://head:10001 alone")
    return names


def is_cluster(devices: Sequence[str | None]) -> bool:
    """Whether they are a Ray cluster."""
    return len(devices) == 1 and devices[0] is not None and bool(_CLUSTER.fullmatch(devices[0]))


def is_alone(devices: Sequence[str | None]) -> bool:
    """Whether the team is of one, who is this process."""
    return len(devices) == 1 and not is_cluster(devices)


def open_team(devices: Sequence[str | None], recruit: Recruit) -> AbstractContextManager[Team]:
    """The team: this process where there is one device, a process for each of several, or a cluster's actors."""
    if is_alone(devices):
        return Here(devices[0], recruit)
    if not is_cluster(devices):
        return Processes(devices, recruit)
    from hdpainter.team.cluster import Cluster

    match = _CLUSTER.fullmatch(devices[0] or "")
    assert match is not None
    count, address = match[2], match[3]
    return Cluster(recruit, address, int(count) if count else None)
