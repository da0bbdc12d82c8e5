"""The page below a path of another server, as docs/web.md sets it up: a proxy that takes the path off."""

import http.client
import http.server
import threading
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from hdpainter.images import load_image
from hdpainter.models.identity import identify
from hdpainter.web.access import Proxies
from hdpainter.web.limits import Limits
from hdpainter.web.menu import Menu

pytest.importorskip("playwright", reason="browser tests need playwright: pip install playwright")

from benchmarks.browser import Visitor

PATH = "/paint"
ONE_HOP = {"connection", "transfer-encoding", "keep-alive"}


@pytest.fixture
def proxied(tiny_pipeline, loaded, monkeypatch):
    """(URL of the proxy, the server behind it)."""
    from hdpainter.web.server import Server

    monkeypatch.setenv("GRADIO_ROOT_PATH", PATH)
    menu = Menu({str(tiny_pipeline): True}, Limits())
    with Server(menu, loaded, identify, auth=("anna", "secret"), proxies=Proxies(["127.0.0.1"])) as server:
        behind = urllib.parse.urlsplit(server.url).netloc

        class Proxy(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                if not self.path.startswith(f"{PATH}/"):
                    return self.send_error(404)
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {key: value for key, value in self.headers.items() if key.lower() not in ONE_HOP}
                headers |= {"X-Forwarded-Host": self.headers["host"], "X-Forwarded-For": "203.0.113.5"}
                connection = http.client.HTTPConnection(behind, timeout=120)
                connection.request(self.command, self.path.removeprefix(PATH), body or None, headers)
                answer = connection.getresponse()
                self.send_response(answer.status)
                for key, value in answer.getheaders():
                    if key.lower() not in ONE_HOP:
                        self.send_header(key, value)
                self.end_headers()
                try:
                    while part := answer.read1(65536):
                        self.wfile.write(part)
                        self.wfile.flush()
                except OSError:  # the browser has left
                    pass
                finally:
                    connection.close()

            do_POST = do_HEAD = do_GET

        proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}{PATH}/", server
        proxy.shutdown()
        proxy.server_close()


def test_the_page_below_a_path_behind_a_password(browser, proxied, picture, tmp_path):
    url, server = proxied
    visitor = Visitor(browser, url, login=("anna", "secret"))
    visitor.load(picture)
    visitor.paint((0.4, 0.4), (0.6, 0.6))
    visitor.ask("a boat")
    visitor.set("Steps", 1)
    visitor.set("Drafts", 1)
    visitor.press("run")
    visitor.wait_for("Drafts: done")
    shown = "document.querySelector('#drafts img').naturalWidth > 0"
    visitor.page.wait_for_function(shown)
    assert [session.client for session in server.studio.sessions.all()] == ["anna"]
    visitor.press("finish")
    visitor.page.locator("#download").wait_for()
    with visitor.page.expect_download() as download:
        visitor.press("download")
    download.value.save_as(tmp_path / "out.png")
    assert np.array(Image.open(tmp_path / "out.png")).shape == np.array(load_image(picture)).shape
    assert visitor.foreign == []
    visitor.close()
