"""Twenty MSCOCO categories, each drawn by a function `(pen, rng) -> colour word or None`.

Objects live in -1..1 on both axes, y downwards. Every call draws another individual: colour, proportions and
parts vary. The colour word is what a caption may call the object.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .canvas import Colour, Pen, jitter, shade

PALETTE: dict[str, Colour] = {
    "red": (214, 48, 49), "orange": (240, 140, 40), "yellow": (250, 208, 60), "green": (60, 160, 75),
    "blue": (50, 110, 205), "purple": (140, 80, 180), "pink": (240, 140, 180), "white": (240, 240, 236),
    "black": (48, 48, 54), "brown": (140, 92, 55), "teal": (40, 165, 165), "gray": (140, 146, 152),
}  # fmt: skip
PAINTS = ("red", "blue", "green", "yellow", "white", "purple", "orange", "teal")
GLASS, GLASS_DARK = (176, 218, 238), (120, 170, 200)
RUBBER, STEEL, INK, CREAM = (40, 40, 45), (196, 198, 204), (42, 40, 46), (246, 244, 236)
WOOD, LEAF, CHEESE, CRUST, TOMATO = (
    (112, 76, 48),
    (74, 152, 62),
    (246, 202, 96),
    (196, 130, 66),
    (190, 55, 45),
)

Draw = Callable[[Pen, np.random.Generator], str | None]


def pick(rng: np.random.Generator, names) -> tuple[str, Colour]:
    """A colour word from `names` and a slightly varied colour for it."""
    name = names[rng.integers(len(names))]
    return name, jitter(rng, PALETTE[name])


def other(rng: np.random.Generator, names, taken: str) -> Colour:
    """A colour from `names` that is not called `taken`."""
    return pick(rng, [n for n in names if n != taken])[1]


def wheel(pen: Pen, x: float, y: float, r: float) -> None:
    pen.ellipse(x, y, r, r, RUBBER)
    pen.ellipse(x, y, r * 0.5, r * 0.5, STEEL)
    pen.ellipse(x, y, r * 0.18, r * 0.18, RUBBER)


def car(pen, rng):
    name, paint = pick(rng, PAINTS)
    h, van = rng.uniform(0.3, 0.4), rng.random() < 0.35
    rear, front = (-0.92, 0.3) if van else (-0.42, 0.24)
    pen.polygon([(rear - 0.06, 0), (rear, -h - 0.08), (front, -h - 0.08), (0.54, 0)], shade(paint, 0.86))
    mid = (rear + front) / 2
    pen.polygon([(rear + 0.05, -0.02), (rear + 0.08, -h), (mid - 0.03, -h), (mid - 0.03, -0.02)], GLASS)
    pen.polygon([(mid + 0.03, -0.02), (mid + 0.03, -h), (front - 0.04, -h), (0.42, -0.02)], GLASS)
    pen.box(-0.98, -0.05, 0.98, 0.34, paint, 0.12)
    pen.box(-0.98, 0.2, 0.98, 0.34, shade(paint, 0.72), 0.05)
    pen.box(mid + 0.08, 0.03, mid + 0.2, 0.06, shade(paint, 0.6))
    pen.ellipse(0.9, 0.07, 0.08, 0.07, (255, 240, 170))
    pen.box(-0.98, -0.01, -0.88, 0.12, (200, 40, 40), 0.03)
    for x in (-0.56, 0.56):
        wheel(pen, x, 0.34, 0.23)
    return name


def bus(pen, rng):
    name, paint = pick(rng, PAINTS)
    double = rng.random() < 0.25
    top = -0.95 if double else -0.56
    pen.box(-1, top, 1, 0.42, paint, 0.1)
    pen.box(-1, 0.1, 1, 0.22, shade(paint, 1.6) if name != "white" else PALETTE["red"])
    edges = np.linspace(-0.92, 0.5 if not double else 0.56, int(rng.integers(4, 6)))
    for row in (top + 0.12, -0.36) if double else (top + 0.13,):
        bottom = row + (0.32 if double else 0.4)
        for a, b in pairwise(edges):
            pen.box(a + 0.03, row, b - 0.03, bottom, GLASS, 0.03)
    pen.box(0.57, -0.36, 0.92, 0.42, shade(paint, 0.6), 0.03)
    pen.box(0.61, -0.31, 0.88, 0.3, GLASS, 0.03)
    pen.box(-1, 0.3, -0.92, 0.38, (200, 40, 40))
    for x in (-0.58, 0.32):
        wheel(pen, x, 0.43, 0.21)
    return name


def boat(pen, rng):
    name, paint = pick(rng, PAINTS)
    sail = other(rng, ("white", "yellow", "red", "blue"), name)
    h = rng.uniform(0.78, 0.98)
    pen.box(-0.05, -0.98, 0.02, 0.4, WOOD)
    pen.polygon([(0.06, -h), (0.06, 0.22), (0.74, 0.22)], sail)
    pen.polygon([(-0.09, -h + 0.12), (-0.09, 0.22), (-0.62, 0.22)], shade(sail, 0.84))
    if rng.random() < 0.6:
        pen.polygon([(-0.02, -0.98), (-0.02, -0.8), (-0.28, -0.89)], shade(paint, 0.9))
    pen.polygon([(-0.95, 0.32), (0.98, 0.32), (0.68, 0.8), (-0.68, 0.8)], paint)
    pen.polygon([(-0.81, 0.58), (0.82, 0.58), (0.68, 0.8), (-0.68, 0.8)], shade(paint, 0.7))
    pen.box(-0.95, 0.3, 0.98, 0.38, shade(paint, 1.45))
    return name


def airplane(pen, rng):
    name, paint = pick(rng, ("white", "gray", "red", "blue", "yellow", "orange"))
    trim = other(rng, ("red", "blue", "green", "purple"), name)
    sweep = rng.uniform(0.36, 0.46)
    pen.polygon([(-0.1, -0.05), (-sweep, -0.62), (-sweep + 0.24, -0.62), (0.3, -0.05)], shade(paint, 0.76))
    pen.polygon([(-0.95, -0.52), (-0.72, -0.52), (-0.48, -0.08), (-0.85, -0.02)], trim)
    pen.ellipse(0, 0, 0.98, 0.2, paint)
    pen.polygon([(-0.95, 0.03), (0.95, 0.03), (0.7, 0.14), (0, 0.2), (-0.7, 0.14)], shade(paint, 0.88))
    pen.polygon([(-0.05, 0.05), (-0.5, 0.66), (-0.22, 0.66), (0.32, 0.05)], shade(paint, 0.66))
    pen.box(-0.08, 0.3, 0.12, 0.42, trim, 0.05)
    for x in np.linspace(-0.45, 0.42, 5):
        pen.ellipse(x, -0.05, 0.055, 0.055, (90, 150, 200))
    pen.polygon([(0.66, -0.13), (0.85, -0.09), (0.92, 0.0), (0.66, 0.0)], (90, 150, 200))
    return name


def traffic_light(pen, rng):
    name, paint = pick(rng, ("black", "yellow", "green", "gray"))
    pen.box(-0.06, 0.5, 0.06, 1.0, (90, 90, 95))
    pen.box(-0.35, -0.98, 0.35, 0.64, shade(paint, 0.9), 0.1)
    pen.box(-0.27, -0.91, 0.27, 0.57, shade(paint, 0.62), 0.09)
    lit = int(rng.integers(3))
    for i, lamp in enumerate(((236, 50, 45), (252, 202, 50), (60, 205, 92))):
        y = -0.67 + 0.5 * i
        pen.ellipse(0, y, 0.2, 0.2, lamp if i == lit else shade(lamp, 0.42))
        if i == lit:
            pen.ellipse(-0.06, y - 0.07, 0.06, 0.05, shade(lamp, 1.6))
    return name


def stop_sign(pen, rng):
    pen.box(-0.055, 0.3, 0.055, 1.0, (126, 126, 132))
    t = np.radians(np.arange(8) * 45 + 22.5)
    octagon, centre = np.stack([np.cos(t), np.sin(t)], 1), np.array([0, -0.28])
    red, white, w = jitter(rng, (206, 35, 40), 10), (246, 246, 246), 0.07
    pen.polygon(octagon * 0.72 + centre, white)
    pen.polygon(octagon * 0.64 + centre, red)
    top, mid, low = -0.45, -0.28, -0.11
    s = [
        (-0.3, top + 0.02),
        (-0.46, top + 0.02),
        (-0.46, mid),
        (-0.3, mid),
        (-0.3, low - 0.02),
        (-0.48, low - 0.02),
    ]
    pen.stroke(s, w, white)
    pen.stroke([(-0.24, top + 0.02), (0.0, top + 0.02)], w, white)
    pen.stroke([(-0.12, top), (-0.12, low + 0.01)], w, white)
    pen.ellipse(0.13, mid, 0.12, 0.19, white)
    pen.ellipse(0.13, mid, 0.052, 0.115, red)
    p = [(0.33, low + 0.01), (0.33, top + 0.02), (0.47, top + 0.02), (0.47, mid + 0.03), (0.33, mid + 0.03)]
    pen.stroke(p, w, white)
    return None


def clock(pen, rng):
    name, paint = pick(rng, ("red", "blue", "green", "black", "brown", "yellow", "purple", "orange"))
    if rng.random() < 0.3:  # an alarm clock
        for side in (-1, 1):
            pen.ellipse(side * 0.5, -0.76, 0.27, 0.19, shade(paint, 0.8), angle=side * 0.6)
            pen.stroke([(side * 0.5, 0.6), (side * 0.66, 0.98)], 0.14, shade(paint, 0.7))
    pen.ellipse(0, 0, 0.92, 0.92, paint)
    pen.ellipse(0, 0, 0.74, 0.74, CREAM)
    for i in range(12):
        c, s = math.cos(i * math.pi / 6), math.sin(i * math.pi / 6)
        inner = 0.57 if i % 3 else 0.5
        pen.stroke([(inner * c, inner * s), (0.66 * c, 0.66 * s)], 0.06, (70, 70, 74))
    for length, width in ((0.38, 0.11), (0.58, 0.08)):
        a = rng.uniform(0, 2 * math.pi)
        pen.stroke([(0, 0), (length * math.cos(a), length * math.sin(a))], width, INK)
    pen.ellipse(0, 0, 0.09, 0.09, paint)
    return name


def umbrella(pen, rng):
    name, paint = pick(rng, PAINTS)
    second = (
        shade(paint, 0.7) if rng.random() < 0.5 else other(rng, ("white", "yellow", "blue", "pink"), name)
    )
    t = np.linspace(0, math.pi, 9)
    hook = np.stack([0.14 - 0.14 * np.cos(t), 0.76 + 0.16 * np.sin(t)], 1)
    pen.stroke(np.vstack([[(0, -0.95)], hook]), 0.075, (96, 68, 48))
    rim = np.array([-0.98, -0.5, 0.0, 0.5, 0.98])
    dome = np.radians(np.linspace(180, 360, 41))
    pen.polygon(np.stack([0.98 * np.cos(dome), 0.78 * np.sin(dome)], 1), paint)
    for i in range(4):  # panels: curves from the tip to the rim
        u = np.linspace(0, 1, 13)
        edges = [
            np.stack([x * np.sin(u * math.pi / 2), -0.78 * np.cos(u * math.pi / 2)], 1)
            for x in rim[i : i + 2]
        ]
        colour = paint if i % 2 == 0 else second
        pen.polygon(np.vstack([edges[0], edges[1][::-1]]), colour)
        scallop_x, scallop_r = (rim[i] + rim[i + 1]) / 2, (rim[i + 1] - rim[i]) / 2
        pen.ellipse(scallop_x, 0.005, scallop_r, 0.1, shade(colour, 0.84), 180, 360)
    return name


def kite(pen, rng):
    name, paint = pick(rng, ("red", "blue", "green", "yellow", "purple", "pink", "orange"))
    second = other(rng, ("yellow", "white", "red", "blue"), name)
    y = rng.uniform(-0.42, -0.28)
    top, low, left, right, hub = (0, -0.97), (0, 0.47), (-0.62, y), (0.62, y), (0, y)
    side = 1 if rng.random() < 0.5 else -1
    tail = np.linspace(0.44, 0.98, 9)
    tail = np.stack([side * 0.13 * np.sin(np.linspace(0, 2 * math.pi, 9)), tail], 1)
    pen.stroke(tail, 0.05, shade(paint, 0.7))
    for x, v in tail[[2, 5, 8]]:
        for s in (-1, 1):
            pen.polygon(
                [(x + s * 0.15, v - 0.08), (x + s * 0.15, v + 0.08), (x, v)], paint if s > 0 else second
            )
    for a, b, colour in ((top, left, paint), (top, right, second), (low, left, second), (low, right, paint)):
        pen.polygon([a, b, hub], colour)
    pen.stroke([top, low], 0.025, shade(paint, 0.6))
    pen.stroke([left, right], 0.025, shade(paint, 0.6))
    return name


def sports_ball(pen, rng):
    name, paint = pick(rng, ("white", "orange", "yellow", "blue", "red", "green"))
    kind = 0 if name == "white" else 1 if name == "orange" else int(rng.integers(3))
    pen.ellipse(0, 0, 0.95, 0.95, shade(paint, 0.78))
    pen.ellipse(-0.05, -0.05, 0.88, 0.88, paint)
    if kind == 0:  # football
        t = np.radians(np.arange(5) * 72 - 90)
        corners = np.stack([np.cos(t), np.sin(t)], 1)
        pen.polygon(corners * 0.32, INK)
        for p in corners:
            q = np.array([-p[1], p[0]])
            pen.stroke([p * 0.3, p * 0.66], 0.05, INK)
            patch = [
                p * 0.62,
                p * 0.8 + q * 0.26,
                p * 0.93 + q * 0.15,
                p * 0.93 - q * 0.15,
                p * 0.8 - q * 0.26,
            ]
            pen.polygon(patch, INK)
    elif kind == 1:  # basketball
        pen.stroke([(-0.93, 0), (0.93, 0)], 0.07, INK)
        pen.stroke([(0, -0.93), (0, 0.93)], 0.07, INK)
        t = np.linspace(-1, 1, 11)
        for side in (-1, 1):
            pen.stroke(np.stack([side * (0.75 - 0.42 * np.cos(t * 1.1)), t * 0.66], 1), 0.07, INK)
    else:  # beach ball
        for a in (0, 120, 240):
            pen.ellipse(0, 0, 0.93, 0.93, (246, 246, 246), a, a + 60)
        pen.ellipse(0, 0, 0.17, 0.17, shade(paint, 0.9))
    return name


def bottle(pen, rng):
    name, paint = pick(rng, ("green", "brown", "blue", "teal", "red", "yellow"))
    label, w = other(rng, ("white", "yellow", "red"), name), rng.uniform(0.28, 0.37)
    neck = rng.uniform(0.1, 0.13)
    shoulder = [
        (-neck, -0.86),
        (neck, -0.86),
        (neck, -0.5),
        (w, -0.2),
        (w, -0.08),
        (-w, -0.08),
        (-w, -0.2),
        (-neck, -0.5),
    ]
    pen.polygon(shoulder, paint)
    pen.box(-w, -0.2, w, 0.98, paint, 0.08)
    pen.box(-neck - 0.03, -0.98, neck + 0.03, -0.8, shade(paint, 0.5), 0.03)
    pen.box(-w, 0.14, w, 0.64, label)
    pen.ellipse(0, 0.39, 0.14, 0.14, shade(paint, 0.85))
    pen.box(-w + 0.06, -0.14, -w + 0.14, 0.1, shade(paint, 1.5), 0.03)
    return name


def cup(pen, rng):
    name, paint = pick(rng, ("red", "blue", "white", "green", "yellow", "purple", "pink", "teal", "orange"))
    t = np.radians(np.linspace(-100, 100, 15))
    pen.stroke(np.stack([0.48 + 0.36 * np.cos(t), 0.02 + 0.34 * np.sin(t)], 1), 0.15, shade(paint, 0.84))
    pen.polygon([(-0.74, -0.6), (0.62, -0.6), (0.48, 0.74), (-0.6, 0.74)], paint)
    pen.ellipse(-0.06, 0.74, 0.54, 0.13, paint)
    pen.polygon([(0.32, -0.6), (0.62, -0.6), (0.48, 0.77), (0.23, 0.85)], shade(paint, 0.8))
    if rng.random() < 0.4:
        pen.polygon(
            [(-0.7, -0.12), (0.57, -0.12), (0.53, 0.22), (-0.67, 0.22)],
            other(rng, ("white", "yellow", "blue"), name),
        )
    pen.ellipse(-0.06, -0.6, 0.68, 0.18, shade(paint, 1.4))
    pen.ellipse(-0.06, -0.585, 0.58, 0.13, (96, 60, 36))
    return name


def vase(pen, rng):
    name, paint = pick(rng, ("blue", "white", "red", "purple", "teal", "brown"))
    for x, y in ((-0.32, -0.72), (0.02, -0.82), (0.34, -0.7)):
        pen.stroke([(x * 0.3, -0.1), (x, y)], 0.05, (62, 132, 62))
        _, petal = pick(rng, ("pink", "yellow", "red", "purple", "white", "orange"))
        for a in np.radians(np.arange(5) * 72 + rng.uniform(0, 72)):
            pen.ellipse(x + 0.1 * math.cos(a), y + 0.1 * math.sin(a), 0.09, 0.09, petal)
        pen.ellipse(x, y, 0.07, 0.07, (252, 222, 92))
    t = np.linspace(0, 1, 15)
    belly = rng.uniform(0.26, 0.36)
    w = 0.2 + belly * np.sin(np.pi * np.clip(t * 0.95 + 0.03, 0, 1)) ** 1.2 + 0.03 * t
    w[0] = 0.27
    profile = np.stack([w, -0.2 + 1.18 * t], 1)
    pen.polygon(np.vstack([profile, (profile * (-1, 1))[::-1]]), paint)
    stripe = profile[5:9]
    pen.polygon(np.vstack([stripe, (stripe * (-1, 1))[::-1]]), shade(paint, 0.65))
    pen.ellipse(-0.6 * w[5], 0.12, 0.05, 0.13, shade(paint, 1.5))
    return name


def banana(pen, rng):
    ripe = rng.random() < 0.75
    peel = jitter(rng, (248, 212, 60) if ripe else (190, 205, 80), 10)
    count = int(rng.integers(1, 4))
    t = np.linspace(-1.25, 1.25, 17)
    width = (0.21 - 0.02 * count) * np.cos(t * 1.12) ** 0.6 + 0.035
    out = np.stack([np.sin(t), np.cos(t)], 1)
    for i in range(count):
        middle = np.stack(
            [0.95 * np.sin(t), 0.95 * (np.cos(t) - 0.62) + 0.24 * (i - (count - 1) / 2) - 0.1], 1
        )
        outer = middle + out * width[:, None]
        pen.polygon(np.vstack([outer, (middle - out * width[:, None])[::-1]]), peel)
        pen.polygon(np.vstack([outer, (middle + out * width[:, None] * 0.3)[::-1]]), shade(peel, 0.82))
        pen.ellipse(*middle[0], 0.075, 0.075, (96, 72, 36))
        pen.ellipse(*middle[-1], 0.05, 0.05, (96, 72, 36))
    return "yellow" if ripe else "green"


def apple(pen, rng):
    name, skin = pick(rng, ("red", "green", "yellow", "red"))
    for side in (-1, 1):
        pen.ellipse(side * 0.3, 0.1, 0.6, 0.72, skin, angle=side * 0.15)
    pen.ellipse(0.36, 0.16, 0.46, 0.6, shade(skin, 0.84), angle=0.15)
    pen.ellipse(0.18, 0.06, 0.52, 0.62, skin)
    pen.ellipse(0, -0.5, 0.2, 0.09, shade(skin, 0.6))
    pen.stroke([(0, -0.47), (0.02, -0.68), (0.1, -0.9)], 0.09, (96, 66, 42))
    pen.ellipse(0.34, -0.78, 0.28, 0.12, LEAF, angle=-0.35)
    pen.ellipse(-0.42, -0.18, 0.13, 0.2, shade(skin, 1.55), angle=0.4)
    return name


def orange(pen, rng):
    skin = jitter(rng, (244, 146, 30), 10)
    if rng.random() < 0.6:
        pen.ellipse(0, 0, 0.92, 0.9, shade(skin, 0.85))
        pen.ellipse(-0.07, -0.07, 0.82, 0.8, skin)
        pen.ellipse(-0.34, -0.36, 0.2, 0.15, shade(skin, 1.4), angle=-0.6)
        pen.ellipse(0, -0.74, 0.13, 0.07, (92, 122, 52))
        pen.ellipse(0.27, -0.82, 0.26, 0.11, LEAF, angle=-0.3)
    else:  # a half
        pen.ellipse(0, 0, 0.92, 0.92, skin)
        pen.ellipse(0, 0, 0.8, 0.8, (255, 240, 208))
        for a in range(0, 360, 45):
            c, s = math.cos(math.radians(a + 22.5)), math.sin(math.radians(a + 22.5))
            pen.ellipse(0.09 * c, 0.09 * s, 0.62, 0.62, shade(skin, 1.12), a + 4, a + 41)
    return None


def donut(pen, rng):
    name, icing = pick(rng, ("pink", "brown", "white", "blue", "purple", "yellow"))
    dough = (208, 152, 88)
    pen.ellipse(0, 0.04, 0.95, 0.92, dough)
    pen.ellipse(0, 0.0, 0.93, 0.88, shade(dough, 1.12))
    t = np.linspace(0, 2 * math.pi, 61)[:-1]
    r = 0.82 + 0.05 * np.sin(t * int(rng.integers(6, 9)) + rng.uniform(0, 6))
    pen.polygon(np.stack([r * np.cos(t), r * 0.95 * np.sin(t)], 1), icing)
    for a in np.arange(18) * 2.4 + rng.uniform(0, 6):  # the golden angle spreads the sprinkles evenly
        q, turn = rng.uniform(0.44, 0.7), rng.uniform(0, math.pi)
        x, y, dx, dy = q * math.cos(a), q * 0.95 * math.sin(a), 0.075 * math.cos(turn), 0.075 * math.sin(turn)
        colour = PALETTE[("red", "yellow", "green", "blue", "white", "orange")[rng.integers(6)]]
        pen.stroke([(x - dx, y - dy), (x + dx, y + dy)], 0.065, colour)
    pen.ellipse(0, 0.02, 0.32, 0.3, shade(dough, 0.82))
    pen.ellipse(0, 0.045, 0.25, 0.22, shade(dough, 0.45))
    return name


def pizza(pen, rng):
    if rng.random() < 0.5:
        pen.ellipse(0, 0, 0.97, 0.97, CRUST)
        pen.ellipse(0, 0, 0.85, 0.85, CHEESE)
        count, first = int(rng.integers(5, 8)), rng.uniform(0, 2 * math.pi)
        for a in first + np.arange(count) * 2 * math.pi / count:
            pen.ellipse(0.56 * math.cos(a), 0.56 * math.sin(a), 0.17, 0.17, TOMATO)
            b = a + math.pi / count
            pen.ellipse(0.34 * math.cos(b), 0.34 * math.sin(b), 0.085, 0.06, LEAF, angle=b)
        pen.ellipse(0, 0, 0.17, 0.17, TOMATO)
    else:  # a slice
        pen.polygon([(-0.82, -0.66), (0.82, -0.66), (0.03, 0.97), (-0.03, 0.97)], CHEESE)
        pen.box(-0.93, -0.9, 0.93, -0.58, CRUST, 0.15)
        for x, y in ((-0.35, -0.33), (0.34, -0.28), (-0.02, 0.08), (0.03, 0.52)):
            pen.ellipse(x, y, 0.17, 0.17, TOMATO)
        for x, y in ((0.02, -0.42), (-0.24, 0.0), (0.24, 0.14)):
            pen.ellipse(x, y, 0.085, 0.06, LEAF, angle=x * 3)
    return None


def cake(pen, rng):
    name, icing = pick(rng, ("pink", "brown", "white", "blue", "yellow", "purple"))
    sponge, candles = (226, 182, 122), int(rng.integers(1, 4))
    pen.ellipse(0, 0.63, 0.94, 0.25, (216, 216, 222))
    pen.box(-0.78, -0.25, 0.78, 0.58, sponge)
    pen.ellipse(0, 0.58, 0.78, 0.2, sponge)
    pen.box(-0.78, 0.16, 0.78, 0.3, shade(icing, 0.85))
    pen.ellipse(0, 0.3, 0.78, 0.16, shade(icing, 0.85))
    pen.box(-0.78, -0.25, 0.78, 0.0, icing)
    drips = np.linspace(-0.78, 0.78, 7)
    for i, (a, b) in enumerate(pairwise(drips)):
        pen.ellipse((a + b) / 2, 0.0, (b - a) / 2, 0.12 + 0.1 * (i % 2), icing)
    pen.ellipse(0, -0.25, 0.78, 0.2, shade(icing, 1.35))
    for i in range(candles):
        x = (i - (candles - 1) / 2) * 0.4
        pen.box(x - 0.05, -0.72, x + 0.05, -0.22, pick(rng, ("red", "blue", "green", "purple"))[1])
        pen.ellipse(x, -0.83, 0.075, 0.14, (255, 190, 50))
        pen.ellipse(x, -0.8, 0.035, 0.07, (255, 240, 170))
    return name


def teddy_bear(pen, rng):
    name, fur = pick(rng, ("brown", "gray", "white", "pink", "orange"))
    fur = jitter(rng, (166, 113, 68)) if name == "brown" else fur
    light = (250, 226, 202) if name == "white" else shade(fur, 1.45)
    dark = shade(fur, 0.8)
    for s in (-1, 1):
        pen.ellipse(s * 0.46, -0.8, 0.2, 0.19, dark)
        pen.ellipse(s * 0.46, -0.8, 0.1, 0.1, light)
        pen.ellipse(s * 0.62, 0.2, 0.2, 0.34, dark, angle=-s * 0.6)
        pen.ellipse(s * 0.42, 0.8, 0.27, 0.2, dark)
        pen.ellipse(s * 0.44, 0.82, 0.13, 0.11, light)
    pen.ellipse(0, 0.36, 0.55, 0.58, fur)
    pen.ellipse(0, 0.42, 0.33, 0.37, light)
    pen.ellipse(0, -0.42, 0.56, 0.5, fur)
    pen.ellipse(0, -0.28, 0.26, 0.21, light)
    pen.ellipse(0, -0.36, 0.1, 0.075, INK)
    for s in (-1, 1):
        pen.ellipse(s * 0.23, -0.53, 0.068, 0.078, INK)
    pen.stroke([(-0.09, -0.2), (0, -0.16), (0.09, -0.2)], 0.045, (62, 46, 42))
    if rng.random() < 0.5:
        bow = other(rng, ("red", "blue", "green"), name)
        for s in (-1, 1):
            pen.polygon([(0, 0.08), (s * 0.26, -0.03), (s * 0.26, 0.2)], bow)
        pen.ellipse(0, 0.08, 0.07, 0.07, shade(bow, 0.75))
    return name


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
    Category("car", 3, "vehicle", car, tilt=0.06, stretch=0.12),
    Category("airplane", 5, "vehicle", airplane, "air", 0.45, 0.12),
    Category("bus", 6, "vehicle", bus, tilt=0.06, stretch=0.12),
    Category("boat", 9, "vehicle", boat, tilt=0.1, stretch=0.15),
    Category("traffic light", 10, "outdoor", traffic_light, tilt=0.06, stretch=0.12),
    Category("stop sign", 13, "outdoor", stop_sign, tilt=0.1, stretch=0.05, flips=False),
    Category("umbrella", 28, "accessory", umbrella, tilt=0.35),
    Category("sports ball", 37, "sports", sports_ball, tilt=math.pi, stretch=0.02),
    Category("kite", 38, "sports", kite, "air", 0.5, 0.15),
    Category("bottle", 44, "kitchen", bottle, tilt=0.08, stretch=0.12),
    Category("cup", 47, "kitchen", cup, tilt=0.06, stretch=0.15),
    Category("banana", 52, "food", banana, tilt=0.8),
    Category("apple", 53, "food", apple, tilt=0.3, stretch=0.08),
    Category("orange", 55, "food", orange, tilt=0.4, stretch=0.04),
    Category("pizza", 59, "food", pizza, tilt=math.pi, stretch=0.05),
    Category("donut", 60, "food", donut, tilt=0.5, stretch=0.1),
    Category("cake", 61, "food", cake, tilt=0.04, stretch=0.12),
    Category("clock", 85, "indoor", clock, "wall", 0.1, 0.05, flips=False),
    Category("vase", 86, "indoor", vase, tilt=0.06, stretch=0.12),
    Category("teddy bear", 88, "indoor", teddy_bear, tilt=0.15, stretch=0.1),
)
