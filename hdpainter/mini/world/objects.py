"""The twenty categories: MSCOCO's names and ids, how each is drawn and how it stands in a scene."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hdpainter.mini.world import things_indoors as indoors
from hdpainter.mini.world import things_outdoors as outdoors
from hdpainter.mini.world.canvas import Pen

Draw = Callable[[Pen, np.random.Generator], str | None]


@dataclass(frozen=True)
class Category:
    """An MSCOCO category (its own name, id and supercategory) and how its objects stand in a scene."""

    name: str
    id: int
    supercategory: str
    draw: Draw
    place: str = "ground"  # "ground", "air" or "wall"
    tilt: float = 0.1  # largest rotation, radians
    stretch: float = 0.1  # largest relative change of the height
    flips: bool = True


CATEGORIES: tuple[Category, ...] = (
    Category("car", 3, "vehicle", outdoors.car, tilt=0.06, stretch=0.12),
    Category("airplane", 5, "vehicle", outdoors.airplane, "air", 0.45, 0.12),
    Category("bus", 6, "vehicle", outdoors.bus, tilt=0.06, stretch=0.12),
    Category("boat", 9, "vehicle", outdoors.boat, tilt=0.1, stretch=0.15),
    Category("traffic light", 10, "outdoor", outdoors.traffic_light, tilt=0.06, stretch=0.12),
    Category("stop sign", 13, "outdoor", outdoors.stop_sign, tilt=0.1, stretch=0.05, flips=False),
    Category("umbrella", 28, "accessory", outdoors.umbrella, tilt=0.35),
    Category("sports ball", 37, "sports", outdoors.sports_ball, tilt=math.pi, stretch=0.02),
    Category("kite", 38, "sports", outdoors.kite, "air", 0.5, 0.15),
    Category("bottle", 44, "kitchen", indoors.bottle, tilt=0.08, stretch=0.12),
    Category("cup", 47, "kitchen", indoors.cup, tilt=0.06, stretch=0.15),
    Category("banana", 52, "food", indoors.banana, tilt=0.8),
    Category("apple", 53, "food", indoors.apple, tilt=0.3, stretch=0.08),
    Category("orange", 55, "food", indoors.orange, tilt=0.4, stretch=0.04),
    Category("pizza", 59, "food", indoors.pizza, tilt=math.pi, stretch=0.05),
    Category("donut", 60, "food", indoors.donut, tilt=0.5, stretch=0.1),
    Category("cake", 61, "food", indoors.cake, tilt=0.04, stretch=0.12),
    Category("clock", 85, "indoor", outdoors.clock, "wall", 0.1, 0.05, flips=False),
    Category("vase", 86, "indoor", indoors.vase, tilt=0.06, stretch=0.12),
    Category("teddy bear", 88, "indoor", indoors.teddy_bear, tilt=0.15, stretch=0.1),
)
