"""Sessions of the page and callers of the API, all at once: nobody gets what is another's."""

import base64
import http.client
import io
import json
import random
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hdpainter.web.access import Proxies
from hdpainter.web.limits import Limits
from hdpainter.web.menu import FORM, Menu
from tests.campaign.count import HANG, Count
from tests.hdpainter.fakes import MODEL, FakeResult

SIDE = 96
Colour = tuple[int, int, int]


def colour_of(text: str) -> Colour:
    """A colour that nobody else's text has."""
    return tuple(random.Random(text).randbytes(3))  # type: ignore[return-value]


class Painter:
    """Fills masks with the colour of the prompt, in a few slow steps."""

    def draft(self, image: Any, mask: Any, prompt: str, *, progress: Any, **_: Any) -> Image.Image:
        for step in range(1, 4):
            time.sleep(0.005)
            progress("fake", step, 3)
        return Image.new("RGB", image.size, colour_of(prompt))

    def finish(self, image: Any, mask: Any, prompt: str, low_res: Any, **_: Any) -> FakeResult:
        pixels, inside = np.array(image), np.array(Image.open(mask)) > 127
        pixels[inside] = np.array(low_res.resize(image.size))[inside]
        return FakeResult(Image.fromarray(pixels), {"superres": False, "seconds": {}})


class Visitor:
    """One tab or script, with an address of its own."""

    def __init__(self, server: Any, number: int):
        self.server, self.number, self.problems, self.slow = server, number, list[str](), False
        self.place = urllib.parse.urlsplit(server.url).netloc
        self.headers = {"X-Forwarded-For": f"10.0.0.{number + 1}"}
        self.hash = f"tab{number:04d}"
        self.photo = Image.new("RGB", (SIDE, SIDE), colour_of(f"photo {number}"))
        inside = np.zeros((SIDE, SIDE), np.uint8)
        inside[16:48, 16 : 40 + number] = 255
        self.mask = Image.fromarray(inside)

    def visit(self, turns: int) -> None:
        """Make drafts on the page and pictures by the API; what is not as it should be goes to `problems`."""
        try:
            file = self.upload(self.photo, "photo.png")
            self.event("photo_loaded", [file])
            for turn in range(turns):
                self._drafts(f"prompt {self.number} {turn}")
                self._api(f"call {self.number} {turn}")
            self.event("photo_loaded", [self.upload(self.photo, "photo.png")], by=f"{self.hash} again")
        except TimeoutError:
            self.slow = True
        except Exception as error:
            self.problems.append(f"{type(error).__name__}: {error}")

    def _drafts(self, prompt: str) -> None:
        canvas = Image.new("RGBA", (SIDE, SIDE))
        canvas.paste((255, 255, 255, 255), mask=self.mask)
        canvas.save(png := io.BytesIO(), "PNG")
        mask = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
        recipe = {
            **{"prompt": prompt, "model": "mini", "method": "painta", "steps": 3, "guidance_scale": 5},
            **{"eta": 0, "negative_prompt": "", "size": 0, "known_region": "exact", "superres": False},
        }
        self.event("drafts_wanted", [mask, self.number, True, 2, *(recipe[key] for key in FORM)])
        mine = [one for one in self.server.studio.sessions.all() if one.key == self.hash]
        if len(mine) != 1 or mine[0].client != f"10.0.0.{self.number + 1}" or mine[0].error:
            self.problems.append(f"{len(mine)} sessions, {[one.error for one in mine]}")
            return
        for draft in mine[0].groups[0]:
            found = np.array(Image.open(draft.preview), int)
            outside = np.abs(found[60:, 60:] - colour_of(f"photo {self.number}")).max()
            inside = np.array(Image.open(draft.low_res))[20, 20].tolist() == list(colour_of(prompt))
            if draft.recipe.prompt != prompt or outside > 12 or not inside:
                self.problems.append(f"a draft of another: {draft.recipe.prompt!r} for {prompt!r}")
        if len(mine[0].groups[0]) != 2:
            self.problems.append(f"{len(mine[0].groups[0])} drafts of 2")

    def _api(self, prompt: str) -> None:
        files = [self.upload(self.photo, "p.png"), self.upload(self.mask, "m.png")]
        body = {"data": [*files, prompt, "mini", "painta", self.number, 3, None, None, "", None, False]}
        event = json.loads(self.ask("/gradio_api/call/inpaint", json.dumps(body)))["event_id"]
        last = self.ask(f"/gradio_api/call/inpaint/{event}").decode().strip().split("\n\n")[-1]
        kind, data = (line.split(": ", 1)[1] for line in last.split("\n"))
        if kind != "complete":
            self.problems.append(f"{kind}: {data[:200]}")
            return
        result, record = json.loads(data)
        path = urllib.parse.urlsplit(result["url"]).path
        made = np.array(Image.open(io.BytesIO(self.ask(path))))
        expected = np.array(self.photo)
        expected[np.array(self.mask) > 0] = colour_of(prompt)
        if record["inputs"]["prompt"] != prompt or not np.array_equal(made, expected):
            self.problems.append(f"a picture of another: {record['inputs']['prompt']!r} for {prompt!r}")

    def event(self, name: str, data: list[Any], by: str | None = None) -> None:
        """What a press of a button does: the queue is joined, and followed until the answer is whole."""
        index = next(key for key, one in self.server._page.fns.items() if one.name == name)
        key = by or self.hash
        self.ask(
            "/gradio_api/queue/join",
            json.dumps({"data": data, "fn_index": index, "session_hash": key, "trigger_id": None}),
        )
        answer = self.ask(f"/gradio_api/queue/data?session_hash={urllib.parse.quote(key)}").decode()
        messages = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: ")]
        ends = [one for one in messages if one["msg"] == "process_completed"]
        if len(ends) != 1 or not ends[0]["success"]:
            self.problems.append(f"{name}: {str(ends)[:200]}")

    def upload(self, picture: Image.Image, name: str) -> dict[str, Any]:
        """The server's word for an uploaded file."""
        picture.save(content := io.BytesIO(), "PNG")
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content.getvalue() + b"\r\n--x--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        path = json.loads(self.ask("/gradio_api/upload", body, kind))[0]
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def ask(self, path: str, body: str | bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
        """The body of an answer 200."""
        connection = http.client.HTTPConnection(self.place, timeout=HANG)
        kind = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(
            "GET" if body is None else "POST", path, body, kind | self.headers | (headers or {})
        )
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise ConnectionError(f"{path}: HTTP {answer.status} {content[:200]!r}")
        return content


def run(folder: Path, scale: float, seed: int) -> Iterator[Count]:
    """20 tabs that also call the API, each 4 times at scale 1: none waits a minute or has another's pictures."""
    from hdpainter.web.server import Server

    count, turns = Count("web sessions"), max(int(4 * scale), 1)
    menu = Menu({"mini": True}, Limits(megapixels=2, upload_mb=8, per_user=4, queue=200))
    identity = lambda model, superres: MODEL  # noqa: E731
    with Server(menu, lambda model: Painter(), identity, proxies=Proxies(["127.0.0.1"])) as server:
        Visitor(server, 20).visit(1)  # what is imported when it is first used
        visitors = [Visitor(server, number) for number in range(20)]
        threads = [threading.Thread(target=visitor.visit, args=(turns,), daemon=True) for visitor in visitors]
        for thread in threads:
            thread.start()
        for thread, visitor in zip(threads, visitors, strict=True):
            thread.join(10 * HANG * turns)
            count.tried += 1
            if thread.is_alive() or visitor.slow:
                count.note("hangs", f"session {visitor.number}")
            elif visitor.problems:
                count.note("lost", f"session {visitor.number}: {visitor.problems[0]}")
        owned = [one.photo is not None for one in server.studio.sessions.all()]
        if not all(owned):
            count.note("lost", "a session without a photo is remembered")
    count.held = count.tried - count.bad
    yield count
