"""Downloads from servers that are broken or mean harm: no disk is filled, nobody's file written, nobody waits."""

import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from hdpainter.models.download import download
from hdpainter.models.registry import registry, within
from ldm.util import UserError

DATA = save({"weight": torch.arange(60_000, dtype=torch.float32)})
OTHER = save({"weight": torch.zeros(60_000)})
Answer = Callable[[socket.socket, str, int], None]  # gets the connection, the request, and its number from 0


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[[Answer], str]]:
    """Starts servers that answer as they are told to, byte for byte; gives the address of a file."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    listeners = []

    def start(answer: Answer) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def work() -> None:
            for number in range(10_000):
                try:
                    connection, _ = listener.accept()
                except OSError:  # closed: the test is over
                    return
                with connection:
                    try:
                        answer(connection, connection.recv(65536).decode("latin-1"), number)
                        connection.shutdown(socket.SHUT_WR)
                    except OSError:  # the client has gone away
                        pass

        threading.Thread(target=work, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/model.safetensors"

    yield start
    for listener in listeners:
        listener.close()


def reply(status: str, headers: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}\r\nConnection: close\r\n\r\n".encode("latin-1") + body


def whole(connection: socket.socket, request: str, number: int) -> None:
    """The honest server."""
    connection.sendall(reply("200 OK", f"Content-Length: {len(DATA)}", DATA))


def fetch(target: Path, *urls: str, **options) -> Path:
    return download(urls, target, progress=False, pause=0, **options)


def refusal(target: Path, *urls: str, **options) -> str:
    with pytest.raises(UserError) as caught:
        fetch(target, *urls, **options)
    assert not target.exists() and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "folder" / "model.safetensors"


@pytest.mark.parametrize("known", ["approximate", "announced"])
def test_a_stream_without_an_end_is_cut_off(serve, target, known):
    sent = []

    def endless(connection, request, number):
        connection.sendall(reply("200 OK", 'ETag: "1"\r\nTransfer-Encoding: chunked', b""))
        for _ in range(10_000):
            connection.sendall(b"%x\r\n" % len(DATA) + DATA + b"\r\n")
            sent.append(len(DATA))

    def too_much(connection, request, number):
        if number == 0:
            connection.sendall(reply("200 OK", f'ETag: "1"\r\nContent-Length: {len(DATA)}', DATA[:1000]))
        else:  # promises the rest, and sends more
            head = f'ETag: "1"\r\nContent-Range: bytes 1000-{len(DATA) - 1}/{len(DATA)}'
            connection.sendall(reply("206 Partial Content", head, b""))
            for _ in range(10_000):
                connection.sendall(DATA)
                sent.append(len(DATA))

    url = serve(endless if known == "approximate" else too_much)
    text = refusal(target, url, approximate_bytes=len(DATA) if known == "approximate" else None)
    assert "sends more than the" in text and sum(sent) < 100 * len(DATA)
    assert list(target.parent.iterdir()) == []


def test_attempts_without_net_gain_are_counted(serve, target):
    """The file changes each time, so that what there was is lost: more of it than the time before is no gain."""
    numbers = []

    def changing(connection, request, number):
        numbers.append(number)
        lot = (3000, 1000, 2000)[number % 3]
        connection.sendall(reply("200 OK", f'ETag: "{number}"\r\nContent-Length: {len(DATA)}', DATA[:lot]))

    assert "the connection ended after" in refusal(target, serve(changing))
    assert len(numbers) == 4  # one that brought 3,000 bytes, three that brought nothing beyond


@pytest.mark.parametrize(
    "lie",
    [
        'ETag: "2"\r\nContent-Range: bytes 1000-{last}/{size}',
        "Content-Range: bytes 1000-{last}/{size}",  # not a word of which version
        'ETag: "1"\r\nContent-Range: bytes 1000-{last}/*',
        'ETag: "1"\r\nContent-Range: bytes 900-{last}/{size}',
        'ETag: "1"\r\nContent-Range: bytes 1000-999999/1000000',
        'ETag: "1"',
    ],
)
def test_a_range_of_another_file_is_not_added_to_the_part(serve, target, lie):
    requests = []

    def lying(connection, request, number):
        requests.append(request)
        if number == 0:
            connection.sendall(reply("200 OK", f'ETag: "1"\r\nContent-Length: {len(DATA)}', DATA[:1000]))
        elif "Range: bytes=" in request:
            head = lie.format(last=len(OTHER) - 1, size=len(OTHER))
            connection.sendall(reply("206 Partial Content", head, OTHER[1000:]))
        else:
            connection.sendall(reply("200 OK", f'ETag: "2"\r\nContent-Length: {len(OTHER)}', OTHER))

    fetch(target, serve(lying))
    assert target.read_bytes() == OTHER
    assert 'If-Range: "1"' in requests[1] and len(requests) == 3


def test_a_time_serves_as_a_version(serve, target):
    date = "Sat, 01 Nov 2025 10:00:00 GMT"
    requests = []

    def dated(connection, request, number):
        requests.append(request)
        if number == 0:
            head = f"Last-Modified: {date}\r\nContent-Length: {len(DATA)}"
            connection.sendall(reply("200 OK", head, DATA[:1000]))
        else:
            head = (
                f"Content-Range: bytes 1000-{len(DATA) - 1}/{len(DATA)}\r\nContent-Length: {len(DATA) - 1000}"
            )
            connection.sendall(reply("206 Partial Content", head, DATA[1000:]))

    fetch(target, serve(dated))
    assert target.read_bytes() == DATA and f"If-Range: {date}" in requests[1] and len(requests) == 2


@pytest.mark.parametrize("length", ["many", "-1", "1e6", "9" * 5000, "²", "1\r\nContent-Length: 2", ""])
def test_a_size_that_is_none_leads_to_the_next_mirror(serve, target, length):
    bad = serve(lambda connection, *_: connection.sendall(reply("200 OK", f"Content-Length: {length}", DATA)))
    fetch(target, bad, serve(whole))
    assert target.read_bytes() == DATA


@pytest.mark.parametrize(
    "location",
    ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "http://[", "http://a..b/", "//", "http://"],
)
def test_redirects_to_anything_but_the_web_lead_to_the_next_mirror(serve, target, location):
    away = serve(lambda connection, *_: connection.sendall(reply("302 Found", f"Location: {location}", b"")))
    fetch(target, away, serve(whole))
    assert target.read_bytes() == DATA


def test_redirects_in_a_circle_and_addresses_that_are_none(serve, target):
    around = serve(lambda connection, *_: connection.sendall(reply("302 Found", "Location: /again", b"")))
    for url in (around, "http://[", "http://a..b/x", "http://127.0.0.1:99999/x", "http://x y/", "https://"):
        assert url in refusal(target, url)


@pytest.mark.parametrize(
    "answer", [b"", b"hello\r\n", b"HTTP/1.1 999999 x\r\n\r\n", b"HTTP/1.1 204 x\r\n\r\n"]
)
def test_what_is_no_answer_leads_to_the_next_mirror(serve, target, answer):
    fetch(target, serve(lambda connection, *_: connection.sendall(answer)), serve(whole))
    assert target.read_bytes() == DATA


@pytest.mark.parametrize(
    "sent", [b"\x1b[2J\x07 gone\r\n", b"a\rb\x9b31m\xff\x00\r\n\r\n", b"x" * 60_000 + b"\r\n"]
)
def test_what_a_server_sends_is_no_part_of_the_line(serve, target, sent):
    text = refusal(target, serve(lambda connection, *_: connection.sendall(sent)))
    assert text.isprintable() and len(text) < 1000


def test_a_trickle_is_not_waited_for(serve, target):
    def trickle(connection, request, number):
        connection.sendall(reply("200 OK", f'ETag: "1"\r\nContent-Length: {len(DATA)}', b""))
        for byte in DATA:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)

    started = time.monotonic()
    assert "bytes came in 0.1 seconds" in refusal(target, serve(trickle), patience=0.1, attempts=1)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("kind", ["symbolic link", "hard link"])
def test_what_a_part_links_to_is_not_written_to(serve, target, kind, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(DATA[:1000])
    target.parent.mkdir()
    for name in (".part", ".part.json"):
        link = target.with_name(target.name + name)
        (link.symlink_to if kind == "symbolic link" else link.hardlink_to)(victim)
    fetch(target, serve(whole))
    assert victim.read_bytes() == DATA[:1000] and target.read_bytes() == DATA and not target.is_symlink()
    assert list(target.parent.glob("*.part*")) == []


@pytest.mark.parametrize(
    "state", ["[]", "3", "[" * 100_000, '{"url": 1}', '{"url": "x", "version": null}', "\0"]
)
def test_a_damaged_note_of_a_part_counts_as_none(serve, target, state):
    target.parent.mkdir()
    target.with_name(target.name + ".part").write_bytes(b"rubbish")
    target.with_name(target.name + ".part.json").write_text(state)
    fetch(target, serve(whole))
    assert target.read_bytes() == DATA


def test_what_a_killed_download_was_just_noting_does_not_stay(serve, target):
    target.parent.mkdir()
    for end in ("part.json.0123456789ab.part.json", "sha256.0123456789ab.part.sha256"):
        target.with_name(f".{target.name}.{end}").write_text("{")
    beside = target.with_name(".other.safetensors.part.json.0123456789ab.part.json")
    beside.write_text("{")
    fetch(target, serve(whole))
    hidden = [path for path in target.parent.iterdir() if path.name.startswith(".")]
    assert hidden == [beside] and target.read_bytes() == DATA


@pytest.mark.parametrize("file", ["../x.ckpt", "/tmp/x.ckpt", "a/../../x", "..", "", "a\\..\\x"])
def test_a_registry_names_no_file_outside_the_folder(tmp_path, monkeypatch, file):
    path = tmp_path / "registry.yaml"
    values = "title: T, config: c.yaml, licence: L, parameters: 10, dtype: float32, urls: []"
    path.write_text(f"checkpoints: {{x: {{file: {file!r}, {values}}}}}")
    monkeypatch.setenv("HDPAINTER_REGISTRY", str(path))
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: x: file is .*: give a name"):
        registry()
    with pytest.raises(UserError, match="give a name"):
        within(tmp_path, file)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("dtype: int4", "dtype must be one of float32"),
        ("parameters: -1", "parameters is -1"),
        ("parameters: 1e300", "parameters is "),
        ("urls: 3", "urls must be a list"),
        ("urls: [3]", "urls[0] must be text"),
        ("sha256: abc", "sha256 is 'abc'"),
    ],
)
def test_a_registry_has_sensible_values(tmp_path, monkeypatch, change, says):
    path = tmp_path / "registry.yaml"
    values = {"title": "T", "file": "f", "config": "c", "licence": "L", "parameters": 1, "dtype": "float32"}
    key, value = change.split(": ")
    lines = {**values, "urls": "[]", key: value}
    path.write_text("checkpoints:\n  x:\n" + "".join(f"    {k}: {v}\n" for k, v in lines.items()))
    monkeypatch.setenv("HDPAINTER_REGISTRY", str(path))
    with pytest.raises(UserError) as caught:
        registry()
    assert says in str(caught.value) and str(path) in str(caught.value) and len(str(caught.value)) < 400


def test_the_honest_server_serves(serve, target):
    fetch(target, serve(whole), sha256=hashlib.sha256(DATA).hexdigest())
    assert target.read_bytes() == DATA
