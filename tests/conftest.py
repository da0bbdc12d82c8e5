"""A real browser for the tests of pages."""

import pytest


@pytest.fixture(scope="module")  # its event loop must not outlive the file
def browser():
    """A headless Chromium; tests that want one are skipped where it is not installed."""
    from scripts.screenshots import FLAGS, chromium

    if chromium() is None:
        pytest.skip("browser tests need Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()
