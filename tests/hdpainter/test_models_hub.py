"""Downloads from a server that answers like the Hugging Face hub, through $HF_ENDPOINT."""

import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save

from hdpainter.files import write_json
from hdpainter.models.download import download
from hdpainter.models.hashes import checkpoint_sha256, recorded_sha256
from ldm.util import UserError

DATA = save({"weight": torch.arange(60_000, dtype=torch.float32)})
SHA256 = hashlib.sha256(DATA).hexdigest()
FILE = "owner/models/resolve/main/weights/model.safetensors"
URL = f"https://huggingface.co/{FILE}"


@dataclass
class Hub:
    """What the hub has and how it behaves; `requests` are (method, path, Range, Authorization) in order."""

    files: dict[str, bytes] = field(default_factory=lambda: {f"/{FILE}": DATA})
    tag: str = SHA256
    commit: str | None = "a" * 40
    status: int = 0  # every answer is this error
    needs: str | None = None  # the token without which there is 401
    cut: list[int] = field(default_factory=list)  # the next answers end after so many bytes
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    url: str = ""
    cache: Path = Path()


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    hub = Hub(cache=tmp_path / "cache")

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_GET(self) -> None:
            self.answer(None)

        def answer(self, body: bytes | None) -> None:
            token, wanted = self.headers.get("Authorization"), self.headers.get("Range")
            hub.requests.append((self.command, self.path, wanted, token))
            if hub.status:
                return self.send_error(hub.status)
            if hub.needs and token != f"Bearer {hub.needs}":
                return self.send_error(401)
            if self.path not in hub.files:
                return self.send_error(404)
            data, start = hub.files[self.path], 0
            if found := re.fullmatch(r"bytes=(\d+)-", wanted or ""):
                start = int(found[1])
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            if hub.commit:
                self.send_header("X-Repo-Commit", hub.commit)
            self.send_header("ETag", f'"{hub.tag}"')
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if body is None:
                end = start + hub.cut.pop(0) if hub.cut else None
                self.wfile.write(data[start:end])

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in (
        "HF_TOKEN",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # The library reads these variables of the environment when it is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub.cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "checkpoints" / "model.safetensors"


def fetch(target: Path, *urls: str, **options) -> Path:
    return download(urls or (URL,), target, progress=False, pause=0, **options)


def refusal(target: Path, *urls: str, **options) -> str:
    with pytest.raises(UserError) as caught:
        fetch(target, *urls, **options)
    assert not target.exists() and "\n" not in str(caught.value)
    assert list(target.parent.iterdir()) == []
    return str(caught.value)


def methods(hub: Hub) -> list[str]:
    return [method for method, *_ in hub.requests]


def test_a_file_of_the_hub_lies_in_its_cache_and_under_its_name(hub, target):
    assert fetch(target, sha256=SHA256) == target
    cached = huggingface_hub.try_to_load_from_cache("owner/models", "weights/model.safetensors", hub.cache)
    assert Path(cached).read_bytes() == target.read_bytes() == DATA
    assert target.samefile(cached) and not target.is_symlink()
    assert recorded_sha256(target) == checkpoint_sha256(target) == SHA256
    names = {target.name, f"{target.name}.sha256", f"{target.name}.sha256.stat"}
    assert {path.name for path in target.parent.iterdir()} == names
    assert {path for _, path, *_ in hub.requests} == {f"/{FILE}"}


def test_what_the_cache_has_is_not_fetched_again(hub, target):
    fetch(target)
    hub.requests.clear()
    fetch(target.with_name("second.safetensors"))
    assert "GET" not in methods(hub)
    assert target.with_name("second.safetensors").read_bytes() == DATA


@pytest.mark.parametrize("trouble", ["offline", "no server", "no access"])
def test_the_cache_will_do_without_the_network(hub, target, monkeypatch, trouble):
    fetch(target)
    if trouble == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    elif trouble == "no server":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    else:
        hub.status = 403
    again = fetch(target.with_name("again.safetensors"))
    assert recorded_sha256(again) == SHA256


def test_a_checkpoint_outlives_the_cache_and_is_no_way_to_write_to_it(hub, target):
    fetch(target)
    blob = target.with_name("blob")
    os.link(target, blob)
    fetch(target, sha256=SHA256)  # a second time over the first
    target.with_name("model.safetensors.part").write_bytes(b"of somebody")
    fetch(target)
    assert blob.read_bytes() == DATA
    for path in hub.cache.rglob(SHA256):
        path.unlink()
    assert target.read_bytes() == DATA
    assert checkpoint_sha256(target) == SHA256  # computed again: the link's end changed the file's ctime


def test_another_file_system_gets_a_copy(hub, target, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("hdpainter.models.download.os.link", refuse)
    fetch(target, sha256=SHA256)
    assert target.stat().st_nlink == 1 and target.read_bytes() == DATA
    assert recorded_sha256(target) == SHA256


def test_a_transfer_that_breaks_goes_on(hub, target, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)  # what is kept; 10 MB otherwise
    hub.cut = [1000]
    fetch(target, sha256=SHA256)
    assert [wanted for method, _, wanted, _ in hub.requests if method == "GET"] == [None, "bytes=1000-"]


def test_the_token_goes_along(hub, target, monkeypatch):
    hub.needs = "hf_secret"
    text = refusal(target)
    assert "HTTP 401" in text and "https://huggingface.co/owner/models" in text
    assert "give a token in $HF_TOKEN" in text
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "another token than yours in $HF_TOKEN" in refusal(target)
    monkeypatch.setenv("HF_TOKEN", hub.needs)
    assert fetch(target).read_bytes() == DATA


@pytest.mark.parametrize(
    ("status", "says", "asked"),
    [
        (403, "terms on https://huggingface.co/owner/models", 1),
        (404, "there is no weights/model", 1),
        (503, "HTTP 503", 3),
    ],
)
def test_errors_of_the_hub_are_one_line(hub, target, status, says, asked):
    hub.status = status
    text = refusal(target)
    assert says in text and str(status) in text and URL in text
    assert methods(hub) == ["HEAD"] * asked


def test_offline_is_one_line(hub, target, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "$HF_HUB_OFFLINE" in refusal(target)
    assert hub.requests == []


def test_no_server_is_one_line(hub, target, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9" in refusal(target)


def test_a_server_that_is_no_hub_is_told(hub, target):
    hub.commit = None
    assert "$HF_ENDPOINT" in refusal(target)


@pytest.mark.parametrize("cached", [False, True])
def test_a_file_of_another_size_is_not_fetched(hub, target, cached):
    if cached:
        fetch(target.with_name("first.safetensors"))
        for path in target.parent.iterdir():
            path.unlink()
        hub.requests.clear()
    assert f"has {len(DATA):,} bytes" in refusal(target, approximate_bytes=2 * len(DATA))
    assert methods(hub) == ["HEAD"]


@pytest.mark.parametrize("known", ["registered", "announced"])
def test_a_file_of_another_hash_is_refused(hub, target, known):
    wrong = "0" * 64
    hub.tag = wrong if known == "announced" else SHA256
    text = refusal(target, sha256=wrong if known == "registered" else None)
    assert f"SHA-256 is {SHA256} instead of {wrong}" in text


def test_a_damaged_cache_is_told_with_the_way_out(hub, target):
    fetch(target.with_name("first.safetensors"))
    for path in target.parent.iterdir():
        path.unlink()
    (blob,) = hub.cache.rglob(f"blobs/{SHA256}")
    blob.write_bytes(DATA[:-1] + b"x")
    assert "hf cache rm model/owner/models" in refusal(target)
    assert blob.exists()  # it is shared: to remove it is up to its owner


def test_a_page_is_no_checkpoint(hub, target):
    hub.files[f"/{FILE}"], hub.tag = b"<html>", hashlib.sha256(b"<html>").hexdigest()
    assert "web page" in refusal(target)


def test_the_next_source_is_named_and_tried(hub, target):
    mirror = (
        f"{hub.url}/other/models/resolve/v1/model.safetensors"  # under $HF_ENDPOINT: the hub's client, too
    )
    hub.files["/other/models/resolve/v1/model.safetensors"] = DATA
    del hub.files[f"/{FILE}"]
    with pytest.warns(UserWarning, match=f"HTTP 404.* the next source is {re.escape(mirror)}"):
        fetch(target, URL, mirror)
    assert (hub.cache / "models--other--models").is_dir()


def test_other_servers_have_nothing_to_do_with_the_cache(hub, target):
    hub.files["/files/model.safetensors"] = DATA
    fetch(target, f"{hub.url}/files/model.safetensors")
    assert methods(hub) == ["GET"] and not hub.cache.exists()


def test_the_command_with_the_variables_of_a_shell(hub, target, tmp_path):
    entry = {"title": "T", "file": target.name, "config": "sd2-inpainting.yaml", "licence": "L"}
    size = {"parameters": 60_000, "dtype": "float32", "sha256": SHA256}
    lost = "https://huggingface.co/owner/lost/resolve/main/model.safetensors"
    registry = {"checkpoints": {"known": entry | size | {"urls": [lost, URL]}}}  # JSON is YAML
    shell = {
        "HDPAINTER_REGISTRY": str(write_json(tmp_path / "registry.yaml", registry)),
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_secret",
    }
    hub.needs = "hf_secret"
    done = subprocess.run(
        [sys.executable, "-m", "hdpainter", "models", "download", "known", "--to", target.parent],
        env=os.environ | shell,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{target} SHA-256 {SHA256}" in done.stdout and "Traceback" not in done.stderr
    assert f"warning: {lost}: HTTP 404" in done.stderr and f"the next source is {URL}" in done.stderr
    assert target.read_bytes() == DATA
    assert (tmp_path / "home" / "hub" / "models--owner--models").is_dir()
