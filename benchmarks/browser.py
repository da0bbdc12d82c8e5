"""A headless Chromium, and those who sit in front of it: a visitor of the page, a reader of a report.

Benchmarks, tests and the pictures of the docs drive them. They need Playwright (pip install playwright) and a
Chromium (apt-get install chromium).
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, TimeoutError, sync_playwright

from ldm.util import UserError

# Without these Chromium calls home at every start, which a closed machine refuses.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 240_000  # milliseconds; a busy machine is slow
LAPTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
SCREEN = {"width": 1920, "height": 1080}


def find_chromium() -> str | None:
    """The path of a Chromium that is installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """It runs within the block. Raises UserError where none is installed."""
    path = find_chromium()
    if path is None:
        raise UserError("there is no Chromium: apt-get install chromium")
    with sync_playwright() as driver, driver.chromium.launch(executable_path=path, args=FLAGS) as browser:
        yield browser


class Tab:
    """A tab that shares nothing with others; `foreign` has its requests to anywhere but `url`."""

    def __init__(self, browser: Browser, url: str, viewport: dict[str, int], patience: float, **options: Any):
        self.context = browser.new_context(viewport=viewport, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(patience)
        self.foreign: list[str] = []
        self.page.on("request", lambda request: self._note(request.url, url))

    def _note(self, asked: str, url: str) -> None:
        if not asked.startswith((url, "data:", "blob:")):
            self.foreign.append(asked)

    def close(self) -> None:
        self.context.close()


class Visitor(Tab):
    """Somebody with the page of a server open. login: user and password, where it asks for them."""

    def __init__(
        self,
        browser: Browser,
        url: str,
        viewport: dict[str, int] = LAPTOP,
        login: tuple[str, str] | None = None,
        **options: Any,
    ):
        super().__init__(browser, url, viewport, PATIENCE, **options)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page.goto(url)
        if login:
            for field, value in zip(("username", "password"), login, strict=True):
                self.page.get_by_label(field).fill(value)
            self.page.get_by_role("button", name="Login").click()
        self.page.locator("#run").wait_for()
        self.page.locator("#examples button.thumbnail-item img").last.wait_for()
        self.page.locator("#editor .hdp-editor").wait_for(state="attached")

    @property
    def canvas(self) -> Locator:
        return self.page.locator("#editor canvas")

    @property
    def status(self) -> str:
        return self.page.locator("#status").inner_text()

    def wait_for(self, text: str) -> None:
        """Until the status says so."""
        try:
            self.page.locator("#status", has_text=text).wait_for()
        except TimeoutError:
            raise AssertionError(f"waited for {text!r}, but the status is {self.status!r}") from None

    def load(self, photo: Path) -> None:
        self.page.set_input_files("#photo input[type=file]", photo)
        self._opened()

    def example(self, number: int) -> None:
        picture = self.page.locator("#examples button.thumbnail-item").nth(number)
        if not picture.is_visible():
            self.press("another")
        picture.click()
        self._opened()

    def _opened(self) -> None:
        self.canvas.wait_for(state="visible")
        self.page.locator("#seen .hdp-note, #seen .hdp-seen").wait_for()

    def paint(self, *points: tuple[float, float]) -> None:
        """A stroke along points in shares of the photo's width and height."""
        self.canvas.scroll_into_view_if_needed()
        box = self.canvas.bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=4)
        self.page.mouse.up()

    def painted(self) -> int:
        """How many pixels of the mask are to be filled."""
        return self.canvas.evaluate(
            "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
            ".filter((value, i) => i % 4 === 3 && value >= 128).length"
        )

    def tool(self, name: str) -> None:
        self.page.locator(f"#editor button[data-tool={name}], #editor button[data-action={name}]").click()

    def ask(self, prompt: str) -> None:
        self.page.locator("#prompt textarea").fill(prompt)

    def set(self, label: str, value: float) -> None:
        """A slider by its number."""
        field = self.page.get_by_label(f"number input for {label}", exact=True)
        if not field.is_visible():
            self.page.get_by_role("button", name="Advanced").click()
        # Gradio writes a slider's first value into it some milliseconds after it appears, over what a script
        # that is faster than a hand has filled in by then.
        for _ in range(20):
            field.fill(str(value))
            field.press("Tab")
            self.page.wait_for_timeout(50)
            if field.input_value() == str(value):
                return
        raise AssertionError(f"{label} is {field.input_value()} after it was set to {value}")

    def press(self, button: str) -> None:
        self.page.locator(f"#{button}").click()

    @property
    def drafts(self) -> Locator:
        return self.page.locator("#drafts button.thumbnail-item")


class Reader(Tab):
    """Somebody who reads a report's HTML file."""

    def __init__(self, browser: Browser, file: Path, viewport: dict[str, int] = LAPTOP, **options: Any):
        url = file.resolve().as_uri()
        super().__init__(browser, url, viewport, PATIENCE / 8, **options)  # there is no server to wait for
        self._complaints: list[str] = []
        self.page.on("pageerror", lambda error: self._complaints.append(str(error)))
        self.page.on("console", self._listen)
        self.page.goto(url)

    def _listen(self, line: ConsoleMessage) -> None:
        if line.type == "error":
            self._complaints.append(line.text)

    @property
    def faults(self) -> list[str]:
        """The page's complaints, and its requests to others."""
        return self._complaints + self.foreign

    @property
    def cards(self) -> Locator:
        return self.page.locator("#cards .card")

    @property
    def viewer(self) -> Locator:
        return self.page.locator("#viewer")

    @property
    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    def choose(self, filter: str, number: int) -> None:
        """An entry of one of the gallery's filters."""
        self.page.locator(f"#filters [name={filter}]").select_option(index=number)

    def card(self, number: int) -> Locator:
        """A sample's card, in view: the page does not draw what is far from the window."""
        card = self.cards.nth(number)
        card.evaluate("card => card.scrollIntoView()")
        return card

    def enlarge(self, number: int, picture: int) -> None:
        """A picture of a card in the viewer."""
        self.card(number).locator(".pictures button").nth(picture).click()
