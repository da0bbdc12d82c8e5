"""Files and values, damaged at random."""

import random
from collections.abc import Callable, Iterator
from typing import Any

NASTY: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    3.5,
    10**9,
    10**90,
    -(2**63),
    2**64,
    1e308,
    float("inf"),
    float("nan"),
    "",
    " ",
    "x",
    "x" * 5000,
    "../../x",
    "/etc/passwd",
    "${oc.env:HOME}",
    "os.system",
    "a\0b",
    "\ud800",
    "é\u0301",
    [],
    [[]],
    {},
    {"target": "os.system"},
    [1] * 2000,
)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The bytes with a few changed, cut, repeated or put in."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                data[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[place:]
            case 2:
                del data[place : place + rng.randrange(1, 64)]
            case 3:
                data[place:place] = data[place : place + rng.randrange(1, 64)]
            case 4:
                data[place:place] = rng.choice(
                    (b"\0", b"\xff" * 8, b"[" * 2000, b"9" * 5000, b"-", b'"', b"\n", b"*a")
                )
            case 5:
                data[place : place + 4] = rng.randbytes(4)
    return bytes(data)


def twisted(values: Any, rng: random.Random) -> Any:
    """Plain values with one of them, or a key, replaced by a nasty one."""
    if isinstance(values, dict) and values and rng.random() < 0.9:
        key = rng.choice(list(values))
        if rng.random() < 0.1:
            return {**values, str(rng.choice(NASTY))[:50]: values[key]}
        return {**values, key: twisted(values[key], rng)}
    if isinstance(values, list) and values and rng.random() < 0.8:
        place = rng.randrange(len(values))
        return [*values[:place], twisted(values[place], rng), *values[place + 1 :]]
    return rng.choice(NASTY)


def texts(values: Any, rng: random.Random, dump: Callable[[Any], str]) -> Iterator[bytes]:
    """Endless variants of a file of plain values: half of them damaged bytes, half of them twisted values."""
    plain = dump(values).encode("utf-8", "surrogatepass")
    while True:
        if rng.random() < 0.5:
            yield damaged(plain, rng)
        else:
            yield dump(twisted(values, rng)).encode("utf-8", "surrogatepass")
