"""What strangers may send to the server, and what they are told."""

import http.client
import json
import threading
import urllib.parse

import pytest

from hdpainter.models.identity import identify
from hdpainter.web.access import ATTEMPTS, WINDOW, Attempts, Proxies
from hdpainter.web.engine import Order
from hdpainter.web.limits import Limits
from hdpainter.web.menu import Menu
from hdpainter.web.messages import told
from ldm.util import UserError

LOGIN = "username=anna&password=secret"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}
CALL = "/gradio_api/call/models"


def ask(server, path, body=None, headers=None, method=None):
    """(status, headers, text) of a request whose headers are these and no others."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc, timeout=60)
    connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode(errors="replace")


@pytest.fixture(scope="module")
def private(tiny_pipeline, loaded):
    """A server with a password, behind a proxy on this machine."""
    pytest.importorskip("gradio", reason="the page needs gradio: pip install gradio")
    from hdpainter.web.server import Server

    menu = Menu({str(tiny_pipeline): True}, Limits(upload_mb=1, disk_mb=3, per_user=2))
    auth = ("anna", "secret")
    with Server(menu, loaded, identify, auth=auth, proxies=Proxies(["127.0.0.1"])) as running:
        yield running


@pytest.fixture(scope="module")
def cookie(private):
    status, headers, _ = ask(private, "/login", LOGIN, FORM)
    assert status == 200
    return {"Cookie": headers.get_all("set-cookie")[1].partition(";")[0]}


def upload(content, name="a.png"):
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:80@evil.example",
        "localhost:80:evil.example",
        "[::1]evil.example",
        "localhost.evil.example",
        "127.0.0.1, evil.example",
        "",
    ],
)
def test_the_host_is_read_whole(server, host):
    status, _, text = ask(server, "/config", headers={"Host": host})
    assert status in (400, 403)  # the first is of the library below
    if status == 403:
        assert "--auth USER:PASSWORD" in text


@pytest.mark.parametrize(
    "path", [CALL, "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/cancel", "/login"]
)
@pytest.mark.parametrize(
    "foreign",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_change_nothing(server, path, foreign):
    status, _, text = ask(server, path, '{"data": []}', {**JSON, **foreign})
    assert status == 403 and "another site" in text


def test_the_own_page_and_plain_programs_may(server):
    own = server.url.rstrip("/")
    for headers in ({"Origin": own, "Sec-Fetch-Site": "same-origin"}, {}):
        status, _, text = ask(server, CALL, '{"data": []}', {**JSON, **headers})
        assert status == 200 and "event_id" in text


@pytest.mark.parametrize("path", ["/", "/config", CALL, "/gradio_api/process_recording", "/theme.css"])
def test_every_answer_protects_its_reader(server, path):
    _, headers, _ = ask(server, path)
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "same-origin")


def test_bodies_are_refused_before_they_are_read(server):
    body, headers = upload(b"")
    status, _, _ = ask(server, "/gradio_api/upload", body, {**headers, "Content-Length": str(9 * 2**20)})
    assert status == 413
    status, _, _ = ask(server, CALL, b"{}", {**JSON, "Content-Length": str(20 * 2**20)})
    assert status == 413
    status, _, text = ask(server, CALL, iter([b" " * 2**20] * 16 + [b" "]), JSON)
    assert status == 413 and text == "the request is too large: this server takes up to 16 MiB"


def test_uploads_have_names_that_nobody_can_guess(server):
    body, headers = upload(bytes(10))
    first, second = (json.loads(ask(server, "/gradio_api/upload", body, headers)[2])[0] for _ in range(2))
    assert first != second and first.endswith("/a.png")


@pytest.mark.parametrize(
    "path",
    [
        "/config",
        "/gradio_api/info",
        "/gradio_api/heartbeat/abc",
        "/gradio_api/queue/data?session_hash=abc",
        "/gradio_api/startup-events",
        "/gradio_api/token",
        "/gradio_api/app_id",
        "/gradio_api/file=/etc/passwd",
        "/robots",
    ],
)
def test_without_the_password_nothing_is_there(private, path):
    assert ask(private, path)[0] == 401
    for body in ('{"event_id": "a", "session_hash": "a", "fn_index": 1}',):
        assert ask(private, "/gradio_api/cancel", body, JSON)[0] == 401


def test_with_it_the_page_is(private, cookie):
    assert "auth_required" in ask(private, "/")[2]
    status, _, text = ask(private, "/", headers=cookie)
    assert status == 200 and "auth_required" not in text
    assert ask(private, CALL, '{"data": []}', {**JSON, **cookie})[0] == 200


def test_guessing_passwords_is_slowed_down(private, cookie, capsys):
    def log_in(address, password):
        form = f"username=anna&password={password}"
        return ask(private, "/login", form, {**FORM, "X-Forwarded-For": f"10.9.9.9, {address}"})

    assert [log_in("10.0.0.1", "wrong")[0] for _ in range(ATTEMPTS)] == [400] * ATTEMPTS
    status, headers, text = log_in("10.0.0.1", "secret")
    assert status == 429 and 0 < int(headers["retry-after"]) <= WINDOW and "try again in" in text
    assert log_in("10.0.0.2", "secret")[0] == 200
    log = capsys.readouterr().err
    assert log.count("10.0.0.1 POST '/login': login refused") == ATTEMPTS
    assert "10.0.0.2 POST '/login': logged in" in log and "secret" not in log


def test_attempts_are_forgotten_after_a_while():
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    assert [attempts.begin("a") for _ in range(ATTEMPTS + 1)] == [0] * ATTEMPTS + [WINDOW]
    now[0] = WINDOW
    assert attempts.begin("a") == 0


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.7", "203.0.113.5", "203.0.113.5"),
        ("10.0.0.7", "1.1.1.1, 203.0.113.5, 10.0.0.8", "203.0.113.5"),
        ("10.0.0.7", "", "10.0.0.7"),
        ("192.0.2.1", "203.0.113.5", "192.0.2.1"),
    ],
)
def test_only_a_proxys_word_counts(peer, forwarded, client):
    headers = [
        (b"host", b"a"),
        (b"x-forwarded-for", forwarded.encode()),
        (b"x-forwarded-host", b"evil.example"),
    ]
    scope = Proxies(["10.0.0.0/8"]).resolve({"client": (peer, 5), "headers": headers})
    assert scope["client"][0] == client
    assert ((b"x-forwarded-host", b"evil.example") in scope["headers"]) == peer.startswith("10.")


def test_a_stranger_cannot_rename_the_server(server):
    _, _, text = ask(server, "/", headers={"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"})
    assert "evil.example" not in text


def test_a_proxy_that_is_no_address_is_told():
    with pytest.raises(UserError, match="--proxy: 'nginx' does not appear to be"):
        Proxies(["nginx"])


def test_the_disk_is_checked_at_upload(private, cookie, monkeypatch):
    body, headers = upload(bytes(900_000))
    for _ in range(5):  # the oldest give way
        assert ask(private, "/gradio_api/upload", body, {**headers, **cookie})[0] == 200
        used = sum(path.stat().st_size for path in private.workspace.root.rglob("*") if path.is_file())
        assert used <= 3 * 2**20
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("", (), {"free": 2**20}))
    status, _, text = ask(private, "/gradio_api/upload", body, {**headers, **cookie})
    assert status == 507 and "no room" in text


def test_a_stream_of_nothing_costs_one_line(server, capsys):
    for path in ("/gradio_api/queue/data?session_hash=none", f"{CALL}/none"):
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc, timeout=60)
        connection.request("GET", path)
        connection.getresponse().read()
        log = capsys.readouterr().err
        assert log.count("\n") == 1 and "hdpainter web: 127.0.0.1 GET" in log


def test_callers_of_the_api_have_the_login_as_their_owner(private, cookie, tiny_pipeline, picture, mask):
    files = []
    for path in (picture, mask):
        body, headers = upload(path.read_bytes(), path.name)
        answer = ask(private, "/gradio_api/upload", body, {**headers, **cookie})[2]
        files.append({"path": json.loads(answer)[0], "meta": {"_type": "gradio.FileData"}})
    data = json.dumps({"data": [*files, "a boat", str(tiny_pipeline), {"steps": 1, "superres": False}]})
    model, go_on = str(tiny_pipeline), threading.Event()
    started = threading.Event()

    def block(painter, order):
        started.set()
        go_on.wait(60)

    private.studio.engine.submit(Order("", model, block))
    try:
        assert started.wait(60)
        for _ in range(2):
            private.studio.engine.submit(Order("", model, lambda painter, order: None, owner="anna"))
        call = json.loads(ask(private, "/gradio_api/call/job", data, {**JSON, **cookie})[2])
        answer = ask(private, f"/gradio_api/call/job/{call['event_id']}", headers=cookie)[2]
        assert "event: error" in answer and "2 of your jobs are waiting already" in answer
    finally:
        go_on.set()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("/tmp/hdpainter-web-x/abc/photo.png is damaged", "photo.png is damaged"),
        (
            "cannot read '/srv/models/sd2/model.ckpt': load it again",
            "cannot read 'model.ckpt': load it again",
        ),
        (r"C:\data\models\a.ckpt is damaged", "a.ckpt is damaged"),
        ("give 1/2 or a URL as https://example.org/a/b", "give 1/2 or a URL as https://example.org/a/b"),
        (
            FileNotFoundError(2, "No such file", "/tmp/x/a.png"),
            "FileNotFoundError: [Errno 2] No such file: 'a.png'",
        ),
    ],
)
def test_no_message_has_a_path_of_the_server(message, shown):
    assert told(message) == shown
