"""Checkpoints that would run something, take all memory or lie about themselves."""

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ldm.checkpoint import read_state_dict
from tests.campaign.count import Count
from tests.campaign.damage import damaged

CALLS = (
    *("os.system", "posix.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "builtins.open"),
    *("builtins.getattr", "importlib.import_module", "runpy.run_path", "shutil.rmtree", "ctypes.CDLL"),
    *("torch.load", "torch.hub.load", "pickle.loads", "socket.create_connection", "codecs.decode"),
    *("torch._utils._rebuild_tensor_v2", "collections.OrderedDict", "numpy.core.multiarray.scalar"),
)


def _pickled(rng: random.Random, made: Path) -> bytes:
    """A pickle that calls something when it is read, by one of the ways that there are."""
    module, name = rng.choice(CALLS).rsplit(".", 1)
    argument = rng.choice((f"touch {made}", f"open({str(made)!r}, 'w')", str(made)))
    text = json.dumps(argument).encode()
    match rng.randrange(4):
        case 0:  # GLOBAL and REDUCE
            call = f"c{module}\n{name}\n(".encode() + b"V" + argument.encode() + b"\ntR."
        case 1:  # INST
            call = b"(V" + argument.encode() + f"\ni{module}\n{name}\n.".encode()
        case 2:  # STACK_GLOBAL of protocol 4
            words = b"".join(b"\x8c" + bytes([len(w)]) + w.encode() for w in (module, name))
            call = b"\x80\x04" + words + b"\x93(X" + struct.pack("<I", len(text)) + text + b"tR."
        case _:  # within a dict, as weights are
            words = f"c{module}\n{name}\n(V{argument}\ntR".encode()
            call = b"}Vstate_dict\n}Va\n" + words + b"ss."
    return rng.choice((b"", b"\x80\x02")) + call if call[:1] != b"\x80" else call


def _zipped(rng: random.Random, content: bytes) -> bytes:
    """In the zip file of a `torch.save`, perhaps twice, under other names or as a bomb."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        folder = rng.choice(("archive", "a/b", "..", "/", "archive"))
        archive.writestr(f"{folder}/data.pkl", content)
        archive.writestr(f"{folder}/version", rng.choice(("3\n", "x", "9" * 400)))
        archive.writestr(f"{folder}/data/0", b"\0" * rng.choice((0, 12, 10_000_000)))
    return buffer.getvalue()


def _lying(rng: random.Random) -> bytes:
    """A safetensors file whose head promises what is not there."""
    numbers = (0, -1, 4, 24, 2**31, 2**63, 10**30, 1.5, None, "3", [])
    tensors: dict[str, Any] = {}
    for name in ("a", "b", rng.choice(("__metadata__", "c", "x" * 10_000, ""))):
        shape = [rng.choice(numbers) for _ in range(rng.choice((0, 1, 2, 100)))]
        tensors[name] = {
            "dtype": rng.choice(("F32", "F16", "I64", "F4", 3, None)),
            "shape": rng.choice((shape, [2, 3], None)),
            "data_offsets": rng.choice(([0, 24], [24, 0], [rng.choice(numbers), rng.choice(numbers)], None)),
        }
    head = rng.choice((json.dumps(tensors), "[" * 5000, "{" * 5000, json.dumps(tensors)[:-3])).encode()
    size = rng.choice((len(head), len(head), 2**63, 2**40, 0, len(head) + 1))
    return struct.pack("<Q", size) + head + bytes(24)


def _huge(rng: random.Random) -> bytes:
    """A `torch.save` whose tensor says that it is larger than any memory."""
    torch.save({"state_dict": {"a": torch.zeros(3)}}, buffer := io.BytesIO())
    return buffer.getvalue().replace(b"K\x03\x85", b"\x8a\x05\xff\xff\xff\xff\x7f\x85", rng.choice((1, 2)))


def files(rng: random.Random, made: Path) -> Iterator[bytes]:
    """Endless files; what a pickle of them runs leaves `made` behind."""
    safe = save({"a.weight": torch.arange(6.0).reshape(2, 3)})
    torch.save({"state_dict": {"a": torch.zeros(3)}}, buffer := io.BytesIO())
    torch.save({"a": torch.zeros(3)}, legacy := io.BytesIO(), _use_new_zipfile_serialization=False)
    while True:
        match rng.randrange(7):
            case 0:
                yield damaged(rng.choice((safe, buffer.getvalue(), legacy.getvalue())), rng)
            case 1:
                yield _pickled(rng, made)
            case 2 | 3:
                yield _zipped(rng, _pickled(rng, made))
            case 4:
                yield _lying(rng)
            case 5:
                yield _huge(rng)
            case _:
                yield legacy.getvalue() + pickle.dumps([0] * 3) + _pickled(rng, made)


def run(folder: Path, scale: float, seed: int) -> Iterator[Count]:
    """1,000 files at scale 1."""
    count, made = Count("hostile checkpoints"), folder / "made by a pickle"
    variants = files(random.Random(f"{seed} checkpoints"), made)
    for number in range(max(int(1000 * scale), 10)):
        path = folder / "w.ckpt"
        path.write_bytes(next(variants))
        count.call(read_state_dict, path, about=f"seed {seed}, file {number}")
        if made.exists():
            made.unlink()
            count.note("tracebacks", f"file {number}: a pickle ran")
    yield count
