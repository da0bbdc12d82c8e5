"""The editor in a real browser: two fingers, and the edge that the joining will have."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from hdpainter.blend import DILATION

pytest.importorskip("playwright", reason="browser tests need playwright: pip install playwright")

from benchmarks.browser import PHONE, Visitor


class Hand:
    """Fingers on a phone's screen."""

    def __init__(self, visitor):
        self.page, self.driver = visitor.page, visitor.context.new_cdp_session(visitor.page)

    def touch(self, kind, *points):
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        self.driver.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    def move(self, before, after, steps=6):
        """All fingers, which are down already, at once."""
        before, after = np.array(before, float), np.array(after, float)
        for part in np.linspace(0, 1, steps + 1)[1:]:
            self.touch("Move", *(before + part * (after - before)).tolist())
            # The browser tells the page of moves once a frame.
            self.page.evaluate(
                "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
            )


@pytest.fixture
def phone(browser, server, tmp_path):
    Image.new("RGB", (600, 400), "teal").save(tmp_path / "photo.png")
    phone = Visitor(browser, server.url, PHONE, has_touch=True, is_mobile=True)
    phone.load(tmp_path / "photo.png")
    phone.canvas.scroll_into_view_if_needed()
    yield phone
    assert phone.foreign == []
    phone.close()


def zoom(visitor):
    return int(visitor.page.locator(".hdp-zoom output").inner_text().rstrip("%"))


def test_two_fingers_zoom_and_move_the_photo_and_paint_nothing(phone):
    hand, box = Hand(phone), phone.canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    apart, wide = [(x - 20, y), (x + 20, y)], [(x - 80, y), (x + 80, y)]
    hand.touch("Start", apart[0])
    hand.touch("Start", *apart)
    hand.move(apart, wide)
    assert zoom(phone) == pytest.approx(400, rel=0.1)
    seen = phone.canvas.bounding_box()  # what was between the fingers still is
    assert seen["x"] + seen["width"] / 2 == pytest.approx(x, abs=8)
    assert seen["y"] + seen["height"] / 2 == pytest.approx(y, abs=8)
    aside = [(a + 30, b + 20) for a, b in wide]
    hand.move(wide, aside)
    moved = phone.canvas.bounding_box()
    assert (moved["x"] - seen["x"], moved["y"] - seen["y"]) == pytest.approx((30, 20), abs=6)
    assert zoom(phone) == pytest.approx(400, rel=0.1)
    hand.touch("End", aside[0])  # the finger that stays does not paint
    hand.move([aside[0]], [apart[0]])
    hand.touch("End")
    assert phone.painted() == 0

    hand.touch("Start", (x, y))
    hand.move([(x, y)], [(x + 40, y)])
    hand.touch("End")
    assert phone.painted() > 0
    phone.tool("undo")
    assert phone.painted() == 0
    back = [(x - 80, y), (x + 80, y)]
    hand.touch("Start", *back)
    hand.move(back, apart, steps=12)
    hand.touch("End")
    assert zoom(phone) == pytest.approx(100, abs=15)
    assert phone.page.evaluate("window.visualViewport.scale") == 1  # the page itself did not


def rim(visitor):
    """By how many pixels of the photo the edge is shown to reach beyond the mask."""
    radius = visitor.page.locator("#hdp-rim feMorphology").get_attribute("radius")
    return float(radius) * visitor.canvas.evaluate("c => c.width / c.clientWidth")


def shown(visitor, x, y):
    """The colour at a place of the photo, in shares, as it is on the screen."""
    visitor.page.mouse.move(0, 0)
    picture = visitor.page.locator(".hdp-stage").screenshot()
    image = Image.open(BytesIO(picture)).convert("RGB")
    return np.array(image.getpixel((int(x * image.width), int(y * image.height))), int)


def test_the_soft_edge_is_shown_as_far_as_the_joining_reaches(visitor, tmp_path):
    Image.new("RGB", (600, 400), "teal").save(tmp_path / "photo.png")
    visitor.load(tmp_path / "photo.png")
    visitor.tool("box")
    visitor.paint((0.4, 0.3), (0.6, 0.7))
    beside, beyond = (0.6 + 16 / 600, 0.5), (0.6 + 34 / 600, 0.5)
    plain = shown(visitor, *beside)
    hint = visitor.page.locator(".hdp-hint")
    assert rim(visitor) == 0 and "soft edge" not in hint.inner_text()

    visitor.page.get_by_role("button", name="Advanced").click()
    visitor.page.get_by_label("Edge", exact=True).click()
    visitor.page.get_by_role("option", name="soft: blended").click()
    visitor.page.locator(".hdp-editor.hdp-soft").wait_for()
    assert rim(visitor) == pytest.approx(DILATION / 2)
    visitor.page.locator(".hdp-soft-hint").wait_for()
    assert np.abs(shown(visitor, *beside) - plain).max() > 40
    assert np.abs(shown(visitor, *beyond) - plain).max() < 10

    visitor.ask("a boat")
    visitor.set("Steps", 1)
    visitor.set("Drafts", 1)
    visitor.press("run")
    visitor.wait_for("Drafts: done")
    visitor.page.get_by_label("Super-resolution of the picked draft").uncheck()
    visitor.press("finish")
    visitor.wait_for("Full size: done")
    with visitor.page.expect_download() as download:
        visitor.press("download")
    download.value.save_as(tmp_path / "out.png")
    changed = (np.array(Image.open(tmp_path / "out.png")) != np.array(Image.new("RGB", (1, 1), "teal"))).any(
        2
    )
    columns = np.flatnonzero(changed.any(0))
    assert 0.4 * 600 - 26 <= columns.min() < 0.4 * 600 - 2 and 0.6 * 600 + 2 < columns.max() <= 0.6 * 600 + 26
    visitor.page.reload()
    visitor.page.locator(".hdp-editor.hdp-soft").wait_for()
    assert rim(visitor) == pytest.approx(DILATION / 2)


def test_everything_fits_a_phone(phone):
    page = phone.page
    tops = page.locator(".hdp-tools > *").evaluate_all("all => all.map(a => a.getBoundingClientRect().top)")
    assert len(tops) > 10 and max(tops) - min(tops) < 12  # one row, which is dragged aside
    page.locator("#seed input").fill("4294967295")
    cut = "a => a.scrollWidth > a.clientWidth"
    assert not page.locator("#seed input").evaluate(cut)
    assert page.get_by_text("Settings", exact=True).count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    phone.set("Steps", 1)
    phone.paint((0.4, 0.4), (0.6, 0.6))
    phone.press("compare")
    phone.wait_for("Side by side: done")
    captions = page.locator("#drafts .caption-label")
    assert captions.count() == 4 and not any(captions.evaluate_all(f"all => all.map({cut})"))
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    phone.press("another")
    captions = page.locator("#examples .caption-label")
    assert captions.count() == 3 and not any(captions.evaluate_all(f"all => all.map({cut})"))


def test_a_bad_mask_leaves_the_one_that_is_there_and_all_formats_are_offered(visitor, tmp_path):
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "photo.jfif")
    visitor.load(tmp_path / "photo.jfif")
    visitor.paint((0.4, 0.4), (0.6, 0.6))
    before = visitor.painted()
    Image.effect_noise((60, 40), 25).save(tmp_path / "noise.gif")
    Image.new("L", (40, 60), 255).save(tmp_path / "turned.png")
    for name, told in (("noise.gif", "not a mask"), ("turned.png", "EXIF orientation")):
        visitor.page.wait_for_timeout(1000)  # gradio makes the button anew after a file
        with visitor.page.expect_file_chooser() as chooser:
            visitor.press("mask-file")
        chooser.value.set_files(tmp_path / name)
        visitor.wait_for(told)
        assert visitor.painted() == before > 0
