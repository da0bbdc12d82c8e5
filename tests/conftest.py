"""A real browser for the tests of pages, less work for the garbage collector, and no clock for hypothesis."""

import gc

import hypothesis
import pytest

hypothesis.settings.register_profile("unhurried", deadline=None)  # a busy machine is no fault of the code
hypothesis.settings.load_profile("unhurried")


def pytest_collection_finish() -> None:
    """What is loaded by now stays; to look through it again would take half a second at each collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")  # its event loop must not outlive the file
def browser():
    """A headless Chromium; tests that want one are skipped where it is not installed."""
    from benchmarks.browser import find_chromium, open_chromium

    if find_chromium() is None:
        pytest.skip("browser tests need Chromium: apt-get install chromium")
    with open_chromium() as browser:
        yield browser
