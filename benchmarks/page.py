"""Time the page as a newcomer meets it: the start, the first draft, many jobs at once.

    python -m benchmarks.page [--model mini]

Needs what browser.py needs. The first drafts have the page's own settings, the many jobs 5 steps.
"""

import argparse
import re
import subprocess
import sys
import time

from playwright.sync_api import Browser

from benchmarks.browser import Visitor, open_chromium
from hdpainter.console import Parser, finish

TABS, JOBS, STEPS = 5, 4, 5


def first_draft(browser: Browser, url: str) -> float:
    """Seconds from the press of the button to the first draft on the page."""
    visitor = Visitor(browser, url)
    visitor.example(0)
    started = time.monotonic()
    visitor.press("run")
    visitor.drafts.first.wait_for()
    seconds = time.monotonic() - started
    visitor.wait_for("Drafts: done")
    visitor.close()
    return seconds


def queued(browser: Browser, url: str) -> float:
    """Seconds until TABS tabs have their JOBS drafts each, asked for in turn."""
    visitors = [Visitor(browser, url) for _ in range(TABS)]
    for number, visitor in enumerate(visitors):
        visitor.example(number % 3)
        visitor.set("Drafts", 1)
        visitor.set("Steps", STEPS)
    started = time.monotonic()
    for _ in range(JOBS):
        for visitor in visitors:
            visitor.press("run")
    for visitor in visitors:
        visitor.page.wait_for_function(
            f"document.querySelectorAll('#drafts button.thumbnail-item').length === {JOBS}"
        )
    seconds = time.monotonic() - started
    for visitor in visitors:
        visitor.close()
    return seconds


def main(argv: list[str]) -> None:
    """Start the server, visit it and print the table."""
    parser = Parser(
        prog="python -m benchmarks.page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="mini")
    args = parser.parse_args(argv)
    command = [sys.executable, "-m", "hdpainter.cli", "web", "--model", args.model, "--port", "0"]
    with open_chromium() as browser:
        started = time.monotonic()
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            url = re.search(r"http://\S+", server.stdout.readline()).group()
            served = time.monotonic() - started
            Visitor(browser, url).close()
            print(
                f"| page ready after the start | {time.monotonic() - started:.1f} s, served at {served:.1f} s |"
            )
            print(f"| first draft, model not loaded yet | {first_draft(browser, url):.1f} s |")
            print(f"| first draft of the next visitor | {first_draft(browser, url):.1f} s |")
            print(f"| {TABS * JOBS} jobs of {TABS} tabs, {STEPS} steps each | {queued(browser, url):.1f} s |")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    sys.exit(finish("benchmarks.page", None, main))
