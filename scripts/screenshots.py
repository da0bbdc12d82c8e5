"""Visit the page in a headless Chromium like a user and take the pictures of docs/web.md and the README.

    python scripts/screenshots.py [--steps 5]                       # the demo's page
    python scripts/screenshots.py --report RUN --out outputs/shots  # the report of a results folder

Needs Playwright (pip install playwright) and a Chromium (apt-get install chromium).
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, TimeoutError, sync_playwright

from eval.__main__ import main as evaluate
from hdpainter.console import Parser, finish
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


def chromium() -> str | None:
    """The path of a Chromium that is installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Visitor:
    """Somebody with the page open in a tab of their own; `foreign` has the requests to other servers."""

    def __init__(self, browser: Browser, url: str, viewport: dict[str, int] = LAPTOP, **options):
        self.context = browser.new_context(viewport=viewport, **options)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.foreign: list[str] = []
        self.page.on("request", lambda request: self._note(request.url, url))
        self.page.goto(url)
        self.page.locator("#run").wait_for()
        self.page.locator("#examples button.thumbnail-item img").last.wait_for()
        self.page.locator("#editor .hdp-editor").wait_for(state="attached")

    def _note(self, asked: str, url: str) -> None:
        if not asked.startswith((url, "data:", "blob:")):
            self.foreign.append(asked)

    def close(self) -> None:
        self.context.close()

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
        self.page.locator("#examples button.thumbnail-item").nth(number).click()
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

    def shoot(self, path: Path, whole: bool = True) -> None:
        self.page.mouse.move(0, 0)
        self.page.wait_for_timeout(400)
        self.page.screenshot(path=path, full_page=whole)
        print(path)


def tour(browser: Browser, url: str, out: Path, steps: int | None) -> None:
    """All pictures, by one visitor on a laptop, one at night and one with a phone."""
    started = time.monotonic()
    visitor = Visitor(browser, url)
    print(f"page after {time.monotonic() - started:.1f} s")
    visitor.shoot(out / "web-start.png", whole=False)
    visitor.example(2)
    visitor.shoot(out / "web-mask.png")
    visitor.set("Drafts", 4)
    if steps:
        visitor.set("Steps", steps)
    started = time.monotonic()
    visitor.press("run")
    visitor.drafts.first.wait_for()
    print(f"first draft after {time.monotonic() - started:.1f} s")
    visitor.shoot(out / "web-running.png")
    visitor.wait_for("Drafts: done")
    visitor.drafts.nth(1).click()
    visitor.press("finish")
    visitor.wait_for("Super-resolution: done")
    visitor.page.locator("#download").wait_for()
    visitor.shoot(out / "web-result.png")
    visitor.press("compare")
    visitor.wait_for("Side by side: done")
    visitor.shoot(out / "web-side-by-side.png")
    visitor.press("copy-command")
    visitor.page.locator("#recipe").wait_for()
    if visitor.page.locator("#explain").is_visible():
        visitor.press("explain")
        visitor.wait_for("Explanation: done")
        visitor.page.locator("#figures img").first.wait_for()
        visitor.page.locator("#figures").evaluate("figures => figures.scrollIntoView()")
        visitor.shoot(out / "web-explain.png", whole=False)
    visitor.close()

    night = Visitor(browser, url, color_scheme="dark")
    night.example(1)
    night.shoot(out / "web-dark.png", whole=False)
    night.close()

    phone = Visitor(browser, url, PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    phone.example(0)
    phone.shoot(out / "web-phone.png")
    phone.close()


class Reader:
    """Somebody who reads a report's HTML file; `faults` has the page's complaints and requests to others."""

    def __init__(self, browser: Browser, file: Path, viewport: dict[str, int] = LAPTOP, **options):
        self.context = browser.new_context(viewport=viewport, **options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE / 8)  # there is no server to wait for
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda line: self.faults.append(line.text) if line.type == "error" else None)
        self.page.on("request", lambda request: self._note(request.url, file.resolve().as_uri()))
        self.page.goto(file.resolve().as_uri())

    def _note(self, asked: str, page: str) -> None:
        if not asked.startswith((page, "data:")):
            self.faults.append(asked)

    def close(self) -> None:
        self.context.close()

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

    def shoot(self, path: Path, whole: bool = False) -> None:
        if whole:  # also what is far from the window, which the page neither draws nor loads by itself
            self.page.add_style_tag(content=".card { content-visibility: visible; }")
            self.page.locator(".card img").evaluate_all(
                "all => Promise.all(all.map(image => { image.loading = 'eager'; return image.decode(); }))"
            )
        self.page.wait_for_timeout(400)
        self.page.screenshot(path=path, full_page=whole)
        print(path)


def report(browser: Browser, file: Path, out: Path) -> None:
    """The report in `file` on a laptop, at night and on a phone: the whole page, its gallery, its viewer."""
    phone = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2}
    visits = {
        "laptop": (LAPTOP, {}),
        "dark": (LAPTOP, {"color_scheme": "dark"}),
        "phone": (PHONE, phone),
    }
    for name, (viewport, options) in visits.items():
        reader = Reader(browser, file, viewport, **options)
        reader.shoot(out / f"report-{name}.png", whole=True)
        reader.page.locator("#gallery").evaluate("gallery => gallery.scrollIntoView()")
        reader.shoot(out / f"report-{name}-gallery.png")
        if reader.cards.count():
            reader.enlarge(0, 0)
            reader.shoot(out / f"report-{name}-viewer.png")
        print(f"{name}: {reader.overflow} pixels too wide; {reader.faults or 'no complaints'}")
        reader.close()


def demo(browser: Browser, out: Path, model: str, steps: int | None) -> None:
    """The tour of the demo's page, with a server of its own."""
    from hdpainter.models.identity import identify
    from hdpainter.pipeline import HDPainter
    from hdpainter.web.limits import Limits
    from hdpainter.web.menu import Menu, installed
    from hdpainter.web.server import Server

    started = time.monotonic()
    with Server(Menu(installed(model), Limits()), HDPainter.from_config, identify) as server:
        print(f"server after {time.monotonic() - started:.1f} s")
        tour(browser, server.url, out, steps)


def main(argv: list[str]) -> int:
    """Take the pictures."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--steps", type=int, help="of each draft (default: the method's)")
    parser.add_argument("--report", metavar="RUN", help="a results folder, whose report is shown instead")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args(argv)
    if chromium() is None:
        raise UserError("there is no Chromium: apt-get install chromium")
    args.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=FLAGS)
        if args.report:
            file = args.out / "report.html"
            if code := evaluate(["report", args.report, "--out", str(file)]):
                return code
            report(browser, file, args.out)
        else:
            demo(browser, args.out, args.model, args.steps)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(finish("screenshots", None, main))
