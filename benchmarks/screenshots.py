"""Visit the page in a headless Chromium like a user and take the pictures of docs/web.md and the README.

    python -m benchmarks.screenshots [--steps 5]                       # the demo's page
    python -m benchmarks.screenshots --report RUN --out outputs/shots  # the report of a results folder

It also tells how long the page and the first draft took. Needs what browser.py needs.
"""

import argparse
import sys
import time
from pathlib import Path

from playwright.sync_api import Browser, Page

from benchmarks.browser import LAPTOP, PHONE, SCREEN, Reader, Visitor, open_chromium
from eval.__main__ import main as evaluate
from hdpainter.console import Parser, finish
from hdpainter.files import make_folder
from hdpainter.models.identity import identify
from hdpainter.pipeline import HDPainter
from hdpainter.web.limits import Limits
from hdpainter.web.menu import Menu, installed
from hdpainter.web.server import Server

MOBILE = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2}


def shoot(page: Page, path: Path, whole: bool = False) -> None:
    """A picture of what the window shows, or of the whole page."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(400)
    page.screenshot(path=path, full_page=whole)
    print(path)


def tour(browser: Browser, url: str, out: Path, steps: int | None) -> None:
    """All pictures of the page, by visitors on a laptop, at a large screen, at night and with a phone."""
    started = time.monotonic()
    visitor = Visitor(browser, url)
    page = visitor.page
    print(f"page after {time.monotonic() - started:.1f} s")
    shoot(page, out / "web-start.png")
    visitor.example(2)
    shoot(page, out / "web-mask.png")
    visitor.set("Drafts", 4)
    if steps:
        visitor.set("Steps", steps)
        page.get_by_role("button", name="Advanced").click()  # put away again
        page.evaluate("window.scrollTo(0, 0)")
    started = time.monotonic()
    visitor.press("run")
    visitor.drafts.first.wait_for()
    print(f"first draft after {time.monotonic() - started:.1f} s")
    shoot(page, out / "web-running.png")
    visitor.wait_for("Drafts: done")
    visitor.drafts.nth(1).click()
    visitor.press("finish")
    visitor.wait_for("Super-resolution: done")
    page.locator("#download").wait_for()
    shoot(page, out / "web-result.png")
    visitor.press("compare")
    visitor.wait_for("Side by side: done")
    shoot(page, out / "web-side-by-side.png")
    page.set_viewport_size(SCREEN)
    shoot(page, out / "web-wide.png")
    page.set_viewport_size(LAPTOP)
    visitor.press("copy-command")
    page.locator("#recipe").wait_for()
    if page.locator("#explain").is_visible():
        visitor.press("explain")
        visitor.wait_for("Explanation: done")
        page.locator("#figures img").first.wait_for()
        page.locator("#figures").evaluate("figures => figures.scrollIntoView()")
        shoot(page, out / "web-explain.png")
    visitor.close()

    night = Visitor(browser, url, color_scheme="dark")
    night.example(1)
    shoot(night.page, out / "web-dark.png")
    night.close()

    phone = Visitor(browser, url, PHONE, **MOBILE)
    phone.example(0)
    shoot(phone.page, out / "web-phone.png", whole=True)
    phone.close()


def report(browser: Browser, file: Path, out: Path) -> None:
    """The report in `file` on a laptop, at night and on a phone: the whole page, its gallery, its viewer."""
    visits = {"laptop": (LAPTOP, {}), "dark": (LAPTOP, {"color_scheme": "dark"}), "phone": (PHONE, MOBILE)}
    for name, (viewport, options) in visits.items():
        reader = Reader(browser, file, viewport, **options)
        page = reader.page
        # Also what is far from the window, which the page neither draws nor loads by itself.
        page.add_style_tag(content=".card { content-visibility: visible; }")
        page.locator(".card img").evaluate_all(
            "all => Promise.all(all.map(image => { image.loading = 'eager'; return image.decode(); }))"
        )
        shoot(page, out / f"report-{name}.png", whole=True)
        page.locator("#gallery").evaluate("gallery => gallery.scrollIntoView()")
        shoot(page, out / f"report-{name}-gallery.png")
        if reader.cards.count():
            reader.enlarge(0, 0)
            shoot(page, out / f"report-{name}-viewer.png")
        print(f"{name}: {reader.overflow} pixels too wide; {reader.faults or 'no complaints'}")
        reader.close()


def main(argv: list[str]) -> int:
    """Take the pictures of the page, with a server of its own, or of a report."""
    parser = Parser(
        prog="python -m benchmarks.screenshots",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--steps", type=int, help="of each draft (default: the method's)")
    parser.add_argument("--report", metavar="RUN", help="a results folder, whose report is shown instead")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args(argv)
    make_folder(args.out)
    with open_chromium() as browser:
        if args.report:
            file = args.out / "report.html"
            if code := evaluate(["report", args.report, "--out", str(file)]):
                return code
            report(browser, file, args.out)
            return 0
        started = time.monotonic()
        with Server(Menu(installed(args.model), Limits()), HDPainter.from_config, identify) as server:
            print(f"server after {time.monotonic() - started:.1f} s")
            tour(browser, server.url, args.out, args.steps)
    return 0


if __name__ == "__main__":
    sys.exit(finish("benchmarks.screenshots", None, main))
