"""Vessels, food and a bear: functions `(pen, rng) -> colour word or None`.

Objects live in -1..1 on both axes, y downwards. Every call draws another individual: colour, proportions and
parts vary. The colour word is what a caption may call the object.
"""

import math
from itertools import pairwise

import numpy as np

from hdpainter.mini.world.canvas import Pen, jitter, shade
from hdpainter.mini.world.palette import CHEESE, CRUST, INK, LEAF, PALETTE, TOMATO, other, pick


def bottle(pen: Pen, rng: np.random.Generator) -> str:
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


def cup(pen: Pen, rng: np.random.Generator) -> str:
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


def vase(pen: Pen, rng: np.random.Generator) -> str:
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


def banana(pen: Pen, rng: np.random.Generator) -> str:
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
        for (x, y), r in ((middle[0], 0.075), (middle[-1], 0.05)):
            pen.ellipse(x, y, r, r, (96, 72, 36))
    return "yellow" if ripe else "green"


def apple(pen: Pen, rng: np.random.Generator) -> str:
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


def orange(pen: Pen, rng: np.random.Generator) -> None:
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


def donut(pen: Pen, rng: np.random.Generator) -> str:
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


def pizza(pen: Pen, rng: np.random.Generator) -> None:
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


def cake(pen: Pen, rng: np.random.Generator) -> str:
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


def teddy_bear(pen: Pen, rng: np.random.Generator) -> str:
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
