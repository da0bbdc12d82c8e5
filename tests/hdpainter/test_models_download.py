"""Downloads from a server that behaves in every way that servers do."""

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from hdpainter.models.download import download
from hdpainter.models.hashes import checkpoint_sha256, recorded_sha256, sha256_file
from ldm.util import UserError

DATA = save({"weight": torch.arange(60_000, dtype=torch.float32)})
SHA256 = hashlib.sha256(DATA).hexdigest()


@dataclass
class Site:
    """What the server has and how it behaves; `requests` are (path, Range header) in order."""

    files: dict[str, bytes] = field(default_factory=lambda: {"/model.safetensors": DATA})
    ranges: bool = True
    etag: str | None = '"v1"'
    announce: str | None = None  # SHA-256 told with a redirect from /hub
    cut: list[int] = field(default_factory=list)  # the next answers end after so many bytes
    status: list[int] = field(default_factory=list)  # the next answers are these errors
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append((self.path, self.headers.get("Range")))
            if site.status:
                return self.send_error(site.status.pop(0))
            if self.path.startswith("/hub/"):
                self.send_response(302)
                if site.announce:
                    self.send_header("X-Linked-Etag", f'"{site.announce}"')
                self.send_header("Location", self.path.removeprefix("/hub"))
                return self.end_headers()
            if self.path not in site.files:
                return self.send_error(404)
            data, start = site.files[self.path], 0
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if wanted and site.ranges and self.headers.get("If-Range") in (None, site.etag):
                start = int(wanted[1])
                if start >= len(data):
                    return self.send_error(416)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            if site.etag:
                self.send_header("ETag", site.etag)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            end = start + site.cut.pop(0) if site.cut else None
            self.wfile.write(data[start:end])

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(site: Site, target: Path, *paths: str, **options) -> Path:
    urls = [site.url + path for path in paths or ("/model.safetensors",)]
    return download(urls, target, progress=False, pause=0, **options)


def refusal(site: Site, target: Path, *paths: str, **options) -> str:
    with pytest.raises(UserError) as caught:
        fetch(site, target, *paths, **options)
    assert not target.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def only(target: Path) -> bool:
    """Whether the file and its hash are all that is there."""
    names = {target.name, f"{target.name}.sha256", f"{target.name}.sha256.stat"}
    return {path.name for path in target.parent.iterdir()} == names


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "new" / "model.safetensors"


def test_a_plain_download(site, target):
    assert fetch(site, target, sha256=SHA256) == target
    assert target.read_bytes() == DATA
    assert recorded_sha256(target) == checkpoint_sha256(target) == SHA256
    assert target.with_name("model.safetensors.sha256").read_text() == f"{SHA256}  model.safetensors\n"
    assert only(target)


def test_a_record_does_not_outlive_the_file_it_is_of(tmp_path):
    weights, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    other.write_bytes(b"other")
    os.utime(other, (1, 1))
    weights.write_bytes(DATA)
    assert recorded_sha256(weights) is None
    assert checkpoint_sha256(weights) == recorded_sha256(weights) == SHA256
    time.sleep(0.05)  # clocks of file systems are coarse
    other.replace(weights)  # an older file, as mv would do
    assert recorded_sha256(weights) is None
    assert checkpoint_sha256(weights) == hashlib.sha256(b"other").hexdigest()
    assert sha256_file(weights).read_text().split()[0] == SHA256  # for `verify` to tell of


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, len(DATA) - 1), max_size=4))
def test_transfers_that_break_are_continued_where_they_broke(site, tmp_path, cuts):
    target = tmp_path / "model.safetensors"
    site.cut, site.requests = list(cuts), []
    fetch(site, target)
    assert target.read_bytes() == DATA and only(target)
    arrived, expected = 0, [None]
    for cut in cuts:
        arrived += cut
        if arrived >= len(DATA):
            break
        expected.append(f"bytes={arrived}-")
    assert [wanted for _, wanted in site.requests] == expected
    target.unlink()


def test_a_later_run_continues_an_earlier_one(site, target):
    site.cut = [1000, 0, 0, 0]
    text = refusal(site, target)
    assert "the connection ended after 1,000 of" in text and site.url in text
    assert target.with_name("model.safetensors.part").read_bytes() == DATA[:1000]
    site.requests.clear()
    fetch(site, target, "/other.safetensors", "/model.safetensors")
    assert site.requests == [("/model.safetensors", "bytes=1000-")]  # the one that was begun comes first
    assert target.read_bytes() == DATA and only(target)


def test_a_finished_part_needs_no_more_network(site, target):
    target.parent.mkdir()
    target.with_name("model.safetensors.part").write_bytes(DATA)
    url = f"{site.url}/model.safetensors"
    state = {"url": url, "version": '"v1"', "bytes": len(DATA), "sha256": None}
    target.with_name("model.safetensors.part.json").write_text(json.dumps(state))
    fetch(site, target)
    assert site.requests == [] and target.read_bytes() == DATA and only(target)


@pytest.mark.parametrize("change", ["other file", "no ranges", "no version", "lost state", "shorter file"])
def test_what_cannot_be_continued_starts_anew(site, target, change):
    site.cut = [1000, 0, 0, 0]
    site.etag = None if change == "no version" else site.etag
    refusal(site, target)
    if change == "other file":
        site.etag, site.files = '"v2"', {"/model.safetensors": save({"weight": torch.zeros(60_000)})}
    elif change == "no ranges":
        site.ranges = False
    elif change == "lost state":
        target.with_name("model.safetensors.part.json").write_text("{")
    elif change == "shorter file":
        site.files = {"/model.safetensors": save({"weight": torch.zeros(4)})}
    fetch(site, target)
    assert target.read_bytes() == site.files["/model.safetensors"] and only(target)


def test_a_server_without_ranges_that_always_breaks_is_given_up(site, target):
    site.ranges, site.cut = False, [5000] * 50
    assert "the connection ended after 5,000" in refusal(site, target)
    assert len(site.requests) == 4  # the first made progress, three more did not


def test_mirrors_are_tried_in_order(site, target):
    site.files["/c"] = DATA
    fetch(site, target, "/a", "/b", "/c", "/model.safetensors")
    assert [path for path, _ in site.requests] == ["/a", "/b", "/c"]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_passing_errors_are_tried_again(site, target, status):
    site.status = [status, status]
    fetch(site, target)
    assert target.read_bytes() == DATA and len(site.requests) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_final_errors_are_not(site, target, status):
    site.status = [status]
    text = refusal(site, target)
    assert f"{site.url}/model.safetensors: HTTP {status}" in text
    assert "$HDPAINTER_MIRRORS" in text and str(target) in text
    assert len(site.requests) == 1


def test_every_source_is_accounted_for(site, target):
    site.files["/page"] = b"<!doctype html><html>Not here</html>"
    text = refusal(site, target, "/none", "/page", sha256=None)
    assert "/none: HTTP 404" in text and "/page: " in text and "web page" in text


@pytest.mark.parametrize(
    ("urls", "says"),
    [
        ([], "no source is known"),
        (["http://127.0.0.1:9/x"], "http://127.0.0.1:9/x: "),
        (["file:///etc/hostname"], "not an http"),
        (["ftp://127.0.0.1/x"], "not an http"),
        (["model.safetensors"], "not an http"),
    ],
)
def test_sources_that_are_none(target, urls, says):
    with pytest.raises(UserError, match=says):
        download(urls, target, progress=False, pause=0)


def test_a_wrong_hash_is_thrown_away_and_the_next_source_tried(site, target):
    site.files["/bad"] = save({"weight": torch.zeros(60_000)})
    text = refusal(site, target, "/bad", sha256=SHA256)
    assert f"instead of {SHA256}" in text
    assert list(target.parent.iterdir()) == []
    fetch(site, target, "/bad", "/model.safetensors", sha256=SHA256)
    assert target.read_bytes() == DATA and only(target)


def test_the_hash_that_a_hub_announces_is_checked(site, target):
    site.announce = "0" * 64
    assert f"instead of {'0' * 64}" in refusal(site, target, "/hub/model.safetensors")
    site.announce, site.cut = SHA256, [1000]
    fetch(site, target, "/hub/model.safetensors")
    assert target.read_bytes() == DATA


def test_damaged_and_wrong_files_are_refused(site, target):
    site.files["/cut"] = DATA[:-1]
    assert "cut short" in refusal(site, target, "/cut")
    text = refusal(site, target, approximate_bytes=2 * len(DATA))
    assert f"has {len(DATA):,} bytes where about {2 * len(DATA):,} are expected" in text
    fetch(site, target, approximate_bytes=int(len(DATA) * 1.01))


def test_an_existing_file_stays_until_the_new_one_is_complete(site, tmp_path):
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"old")
    site.cut = [10, 0, 0, 0]
    with pytest.raises(UserError):
        fetch(site, target)
    assert target.read_bytes() == b"old"
    fetch(site, target)
    assert target.read_bytes() == DATA


def test_a_full_disk_is_foreseen(site, target, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "1,000 free" in refusal(site, target)


def test_https_is_not_left_for_http():
    from urllib.request import Request

    from hdpainter.models.download import _Redirects
    from hdpainter.models.hub import Refused

    with pytest.raises(Refused, match="insecure"):
        _Redirects().redirect_request(Request("https://a/x"), None, 302, "", {}, "http://b/x")
