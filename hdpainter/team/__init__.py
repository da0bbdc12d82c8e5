"""Work done by a team: a member for each device, who loads the models once, and a driver who hands out groups.

base: what a member is and what is left to do, with whom the members died of.
here: a team of one, in this process.
processes: a process for each device of this machine.
cluster: the actors of a Ray cluster.
open_team: the one of them that the user asks for.

Only the driver, who opens the team, reads what users hand over and writes results; members get and give back
plain values and pictures, so that they need not share a file system with it.
"""

from hdpainter.team.base import Lost, Member, Recruit, Team
from hdpainter.team.open import DEVICES_HELP, device_names, is_alone, is_cluster, open_team

__all__ = [
    "DEVICES_HELP",
    "Lost",
    "Member",
    "Recruit",
    "Team",
    "device_names",
    "is_alone",
    "is_cluster",
    "open_team",
]
