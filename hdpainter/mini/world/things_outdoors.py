"""Vehicles, signs and toys: functions `(pen, rng) -> colour word or None`.

Objects live in -1..1 on both axes, y downwards. Every call draws another individual: colour, proportions and
parts vary. The colour word is what a caption may call the object.
"""

import math
from itertools import pairwise

import numpy as np

from hdpainter.mini.world.canvas import Pen, jitter, shade
from hdpainter.mini.world.palette import CREAM, GLASS, INK, PAINTS, PALETTE, RUBBER, STEEL, WOOD, other, pick


def wheel(pen: Pen, x: float, y: float, r: float) -> None:
    pen.ellipse(x, y, r, r, RUBBER)
    pen.ellipse(x, y, r * 0.5, r * 0.5, STEEL)
    pen.ellipse(x, y, r * 0.18, r * 0.18, RUBBER)


def car(pen: Pen, rng: np.random.Generator) -> str:
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


def bus(pen: Pen, rng: np.random.Generator) -> str:
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


def boat(pen: Pen, rng: np.random.Generator) -> str:
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


def airplane(pen: Pen, rng: np.random.Generator) -> str:
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


def traffic_light(pen: Pen, rng: np.random.Generator) -> str:
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


def stop_sign(pen: Pen, rng: np.random.Generator) -> None:
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


def clock(pen: Pen, rng: np.random.Generator) -> str:
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


def umbrella(pen: Pen, rng: np.random.Generator) -> str:
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


def kite(pen: Pen, rng: np.random.Generator) -> str:
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


def sports_ball(pen: Pen, rng: np.random.Generator) -> str:
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
