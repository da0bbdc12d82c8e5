"""Servers that lie to a download: another answer to every request, each of them wrong in its own way."""

import hashlib
import random
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save

from hdpainter.models.download import download
from tests.campaign.count import Count

DATA = save({"weight": torch.arange(20_000, dtype=torch.float32)})
OTHER = save({"weight": torch.zeros(20_000)})
PLACES = ("/again", "file:///etc/passwd", "ftp://127.0.0.1/x", "//", "http://[", "data:,x", "/" * 300)
Answer = Callable[[socket.socket, random.Random, str], None]


def _reply(connection: socket.socket, status: str, *headers: str, body: bytes = b"") -> None:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers, "Connection: close"))
    connection.sendall(f"{head}\r\n".encode("latin-1") + body)


def _start(request: str) -> int:
    """Where the range that is asked for begins."""
    _, _, wanted = request.lower().partition("range: bytes=")
    digits = wanted.partition("-")[0]
    return int(digits) if digits.isdigit() else 0


def honest(connection: socket.socket, rng: random.Random, request: str) -> None:
    """What was asked for."""
    start, size = _start(request), len(DATA)
    if start:
        place = f"Content-Range: bytes {start}-{size - 1}/{size}"
        _reply(connection, "206 Partial Content", 'ETag: "1"', place, body=DATA[start:])
    else:
        _reply(connection, "200 OK", 'ETag: "1"', f"Content-Length: {size}", body=DATA)


def short(connection: socket.socket, rng: random.Random, request: str) -> None:
    """Ends too early."""
    lot = rng.randrange(len(DATA))
    _reply(connection, "200 OK", 'ETag: "1"', f"Content-Length: {len(DATA)}", body=DATA[:lot])


def long(connection: socket.socket, rng: random.Random, request: str) -> None:
    """Does not end where it said, or at all."""
    _reply(connection, "200 OK", rng.choice(('ETag: "1"', f"Content-Length: {len(DATA)}")), body=DATA)
    for _ in range(rng.choice((1, 10, 200))):
        connection.sendall(DATA)


def another(connection: socket.socket, rng: random.Random, request: str) -> None:
    """Another file, whole or in the place of the rest."""
    start, size = _start(request), len(OTHER)
    tag = rng.choice(('ETag: "1"', 'ETag: "2"', 'ETag: W/"1"', "X: y"))
    if start and rng.random() < 0.7:
        place = f"Content-Range: bytes {rng.choice((start, 0, size))}-{size - 1}/{rng.choice((size, '*', 3))}"
        _reply(connection, "206 Partial Content", tag, place, body=OTHER[start:])
    else:
        _reply(connection, "200 OK", tag, f"Content-Length: {size}", body=OTHER)


def damaged(connection: socket.socket, rng: random.Random, request: str) -> None:
    """The right length, a wrong byte."""
    body = bytearray(DATA)
    body[rng.randrange(200)] ^= 1 << rng.randrange(8)
    _reply(connection, "200 OK", f"Content-Length: {len(DATA)}", body=bytes(body))


def unsized(connection: socket.socket, rng: random.Random, request: str) -> None:
    """A size that is none, or pieces without sense."""
    length = rng.choice(("many", "-1", "9" * 5000, "0", "²", "", "1, 2", str(2**62)))
    line = rng.choice((f"Content-Length: {length}", "Transfer-Encoding: chunked"))
    _reply(connection, "200 OK", line, body=rng.choice((DATA, b"zz\r\n" + DATA, b"ffffffffffffffff\r\n")))


def elsewhere(connection: socket.socket, rng: random.Random, request: str) -> None:
    """Sends the client away."""
    _reply(connection, rng.choice(("302 Found", "301 x", "307 x")), f"Location: {rng.choice(PLACES)}")


def refusing(connection: socket.socket, rng: random.Random, request: str) -> None:
    """No, in all ways."""
    _reply(connection, f"{rng.choice((204, 400, 401, 404, 416, 418, 429, 500, 503, 600))} {'no' * 200}")


def rubbish(connection: socket.socket, rng: random.Random, request: str) -> None:
    """Not HTTP."""
    connection.sendall(rng.randbytes(rng.randrange(300)) + rng.choice((b"", b"\r\n\r\n", b"\n" * 500)))


def slow(connection: socket.socket, rng: random.Random, request: str) -> None:
    """A trickle, or silence."""
    if rng.random() < 0.5:
        _reply(connection, "200 OK", f"Content-Length: {len(DATA)}")
    for _ in range(20):
        time.sleep(0.02)
        connection.sendall(b"x")


ANSWERS: tuple[Answer, ...] = (
    *(honest, honest, short, short, long, another, another, damaged, unsized, elsewhere, refusing),
    *(rubbish, slow),
)


class Liar:
    """A server whose answers are drawn by `rng`; `url` is that of its file."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/model.safetensors"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            with connection:
                try:
                    connection.settimeout(5)
                    request = connection.recv(65536).decode("latin-1")
                    self.rng.choice(ANSWERS)(connection, self.rng, request)
                    connection.shutdown(socket.SHUT_WR)
                except OSError:  # the client has gone away
                    pass


def run(folder: Path, scale: float, seed: int) -> Iterator[Count]:
    """500 downloads at scale 1, from two such servers each; half of them know the file's hash."""
    warnings.simplefilter("ignore")
    count, rng = Count("hostile server"), random.Random(f"{seed} servers")
    digest = hashlib.sha256(DATA).hexdigest()
    for number in range(max(int(500 * scale), 10)):
        target = folder / str(number) / "model.safetensors"
        liars = [Liar(random.Random(f"{seed} {number} {place}")) for place in "ab"]
        options = {"sha256": digest} if rng.random() < 0.5 else {"approximate_bytes": len(DATA)}
        fetch = partial(download, progress=False, attempts=2, pause=0, patience=0.3, **options)
        count.call(fetch, [liar.url for liar in liars], target, about=f"seed {seed}, download {number}")
        for liar in liars:
            liar.close()
        if target.is_file():
            data = target.read_bytes()
            if data != DATA if "sha256" in options else len(data) != len(DATA):
                count.note("half_written", f"download {number}: {len(data)} bytes")
        known = {target.name + end for end in ("", ".part", ".part.json", ".sha256", ".sha256.stat")}
        if strange := {path.name for path in target.parent.iterdir()} - known:
            count.note("lost", f"download {number} leaves {sorted(strange)}")
        if sum(path.stat().st_size for path in target.parent.iterdir()) > 4 * len(DATA):
            count.note("lost", f"download {number} fills the disk")
    yield count
