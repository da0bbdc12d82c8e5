"""The page in a real browser, beyond one job: its room, runs of drafts, settings, photos before, a reload."""

import numpy as np
import pytest
from PIL import Image

from hdpainter.mini.world.objects import CATEGORIES
from hdpainter.models.registry import PipelineSpec
from hdpainter.settings import describe

pytest.importorskip("playwright", reason="browser tests need playwright: pip install playwright")

from benchmarks.browser import LAPTOP


def drafts(visitor, count=1, seed=None):
    visitor.set("Steps", 1)
    visitor.set("Drafts", count)
    if seed is not None:
        visitor.page.get_by_label("Keep the seed").check()
        visitor.page.locator("#seed input").fill(str(seed))
    before = visitor.drafts.count()
    visitor.press("run")
    visitor.drafts.nth(before + count - 1).wait_for()
    visitor.wait_for("Drafts: done")


def ready(visitor, picture, prompt="a boat"):
    visitor.load(picture)
    visitor.paint((0.4, 0.4), (0.6, 0.6))
    visitor.ask(prompt)


def in_window(visitor, *selectors):
    """Whether all of these are seen whole, without scrolling."""
    page = visitor.page
    assert page.evaluate("window.scrollY") == 0  # nor has it been scrolled on the way
    boxes = [page.locator(selector).bounding_box() for selector in selectors]
    return all(box["y"] >= 0 and box["y"] + box["height"] <= LAPTOP["height"] for box in boxes)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (250, 250)])
def test_a_job_from_the_photo_to_the_download_needs_no_scrolling(visitor, tmp_path, size):
    Image.new("RGB", size, "teal").save(tmp_path / "photo.png")
    assert in_window(visitor, "#photo", "#examples", "#prompt", "#run", "#status")
    ready(visitor, tmp_path / "photo.png")
    assert (
        not visitor.page.locator("#photo").is_visible() and not visitor.page.locator("#examples").is_visible()
    )
    assert in_window(visitor, "#editor .hdp-tools", "#editor canvas", "#seen", "#prompt", "#run", "#status")
    visitor.set("Steps", 1)
    visitor.page.get_by_role("button", name="Advanced").click()
    visitor.set("Drafts", 4)
    visitor.press("run")
    visitor.wait_for("Drafts: done")
    assert visitor.drafts.count() == 4
    assert in_window(visitor, "#editor canvas", "#prompt", "#run", "#status", "#drafts", "#result", "#finish")
    visitor.press("finish")
    visitor.page.locator("#download").wait_for()
    assert in_window(visitor, "#editor canvas", "#prompt", "#status", "#drafts", "#result", "#download")
    assert "primary" in visitor.page.locator("#download").get_attribute("class")
    assert "secondary" in visitor.page.locator("#finish").get_attribute("class")
    with visitor.page.expect_download() as download:
        visitor.press("download")
    download.value.save_as(tmp_path / "made.png")
    assert Image.open(tmp_path / "made.png").size == size
    assert visitor.page.evaluate("window.scrollY") == 0


def test_the_buttons_say_what_they_will_do(visitor, picture):
    cancel, run = visitor.page.locator("#cancel"), visitor.page.locator("#run")
    assert cancel.is_disabled() and run.inner_text() == "Make drafts"
    ready(visitor, picture)
    visitor.set("Steps", 200)
    visitor.press("run")
    visitor.wait_for("step 1")
    assert cancel.is_enabled() and run.inner_text() == "Queue more drafts"
    visitor.press("run")
    visitor.wait_for("In the queue after it: Drafts")
    visitor.press("cancel")
    visitor.wait_for("Cancelled.")
    visitor.page.locator("#run", has_text="Make drafts").wait_for()
    assert cancel.is_disabled()


def test_what_the_model_knows_and_what_the_method_is(visitor):
    known = visitor.page.locator("#known")
    assert known.inner_text().startswith("This model knows 2 things:")
    known.get_by_text("ice <cream>").click()
    assert visitor.page.locator("#prompt textarea").input_value() == "an ice <cream>"
    assert visitor.page.locator("#about").inner_text() == describe("hd-painter")
    visitor.page.get_by_label("Method", exact=True).click()
    visitor.page.get_by_role("option", name="RASG", exact=True).click()
    visitor.page.locator("#about", has_text=describe("rasg")).wait_for()


def test_the_miniature_lists_what_it_was_shown():
    assert PipelineSpec.load("mini").knows == tuple(category.name for category in CATEGORIES)
    assert PipelineSpec.load("sd2").knows == ()


def test_runs_their_settings_and_their_end(visitor, picture):
    ready(visitor, picture)
    drafts(visitor, 2, seed=5)
    visitor.ask("a red kite")
    drafts(visitor, 1, seed=9)
    headings = visitor.page.locator("#drafts .hdp-run").all_inner_texts()
    assert headings == ["“a red kite”, HD-Painter, 1 step", "“a boat”, HD-Painter, 1 step"]
    visitor.drafts.nth(2).click()
    visitor.page.locator("#result", has_text="seed 6").wait_for()
    assert visitor.drafts.nth(2).get_attribute("aria-pressed") == "true"
    visitor.press("take-up")
    visitor.page.wait_for_function("document.querySelector('#prompt textarea').value === 'a boat'")
    assert visitor.page.locator("#seed input").input_value() == "6"
    assert visitor.page.locator("#lock input").is_checked()
    visitor.press("remove")
    visitor.page.locator("#result", has_text="seed 5").wait_for()
    assert visitor.drafts.count() == 2
    visitor.press("remove")
    visitor.page.locator("#result", has_text="seed 9").wait_for()
    visitor.press("remove")
    visitor.page.locator("#result").wait_for(state="hidden")
    assert visitor.drafts.count() == 0


def test_a_result_becomes_the_next_photo_and_offers_its_settings(visitor, picture, tmp_path):
    ready(visitor, picture)
    drafts(visitor, 1, seed=7)
    painted = visitor.painted()
    visitor.press("finish")
    visitor.page.locator("#download").wait_for()
    with visitor.page.expect_download() as download:
        visitor.press("download")
    download.value.save_as(tmp_path / "made.png")
    visitor.press("reuse")
    visitor.page.locator("#photo-back").wait_for()
    assert visitor.painted() == 0 and visitor.drafts.count() == 0
    visitor.press("photo-back")
    visitor.page.locator("#drafts button").first.wait_for()
    visitor.page.locator("#photo-back").wait_for(state="hidden")
    assert visitor.painted() == painted

    visitor.ask("something else")
    visitor.page.set_input_files("#photo input[type=file]", tmp_path / "made.png")
    visitor.page.locator("#offer", has_text="take up “a boat”, seed 7, HD-Painter").wait_for()
    visitor.press("offer")
    visitor.page.wait_for_function("document.querySelector('#prompt textarea').value === 'a boat'")
    assert visitor.page.locator("#seed input").input_value() == "7"


def test_a_reload_forgets_nothing(visitor, picture):
    ready(visitor, picture)
    drafts(visitor, 2, seed=3)
    visitor.page.locator("#seen .hdp-seen").wait_for()
    painted = visitor.painted()
    visitor.ask("a red kite")
    visitor.page.wait_for_function("sessionStorage.hdpainter.includes('a red kite')")
    visitor.page.reload()
    visitor.drafts.nth(1).wait_for()
    visitor.canvas.wait_for(state="visible")
    visitor.page.wait_for_function("document.querySelector('#prompt textarea').value === 'a red kite'")
    assert visitor.painted() == painted and visitor.page.locator("#lock input").is_checked()
    visitor.drafts.nth(1).click()
    visitor.page.locator("#result", has_text="seed 4").wait_for()


def test_a_job_that_runs_is_followed_after_a_reload(visitor, picture, server):
    ready(visitor, picture)
    visitor.set("Steps", 200)
    visitor.set("Drafts", 2)
    visitor.press("run")
    visitor.wait_for("step 1")
    orders = [order for session in server.studio.sessions.all() for order in session.active]
    visitor.page.reload()
    visitor.wait_for("Draft 1 of 2")  # as before it
    visitor.page.locator("#status .hdp-bar[aria-valuenow]").wait_for()
    visitor.page.locator("#run", has_text="Queue more drafts").wait_for()
    assert visitor.page.locator("#cancel").is_enabled() and visitor.canvas.is_visible()
    seen = visitor.page.locator("#status .hdp-steps").inner_text()
    visitor.page.wait_for_function(
        "before => document.querySelector('#status .hdp-steps').innerText !== before", arg=seen
    )
    visitor.page.reload()  # and once more
    visitor.wait_for("Draft 1 of 2")
    assert [order.state for order in orders] == ["running"]
    visitor.press("cancel")
    visitor.wait_for("Cancelled.")
    visitor.set("Steps", 30)
    visitor.press("run")
    visitor.wait_for("Draft 1 of 2")
    visitor.page.reload()
    visitor.drafts.nth(1).wait_for()  # what comes after the reload is shown, too
    visitor.wait_for("Drafts: done")


def test_box_lasso_grow_and_colour(visitor, picture):
    visitor.load(picture)
    visitor.tool("box")
    visitor.paint((0.2, 0.2), (0.6, 0.7))
    box = visitor.painted()
    assert box == pytest.approx(0.4 * 90 * 0.5 * 120, rel=0.1)
    visitor.tool("grow")
    grown = visitor.painted()
    assert grown > box
    visitor.tool("shrink")
    assert box * 0.95 <= visitor.painted() < grown
    visitor.tool("clear")
    visitor.tool("lasso")
    visitor.paint((0.2, 0.2), (0.8, 0.2), (0.2, 0.8))
    assert visitor.painted() == pytest.approx(0.5 * 0.6 * 90 * 0.6 * 120, rel=0.1)
    before = visitor.painted()
    visitor.page.locator("#editor input[type=color]").fill("#ff0000")
    assert visitor.painted() == before
    colour = "c => [...c.getContext('2d').getImageData(27, 36, 1, 1).data]"
    assert visitor.canvas.evaluate(colour) == [255, 0, 0, 255]
    visitor.tool("undo")
    assert visitor.painted() == 0
    visitor.canvas.focus()  # a box by the keyboard: from where space goes down to where it comes up
    visitor.page.keyboard.press("r")
    visitor.page.keyboard.down(" ")
    for key in ("ArrowRight", "ArrowDown") * 4:
        visitor.page.keyboard.press(key)
    visitor.page.keyboard.up(" ")
    assert visitor.painted() > 30


def test_a_large_photo_is_painted_at_its_own_resolution_and_looked_at_closely(visitor, tmp_path, server):
    from hdpainter.web.limits import Limits

    size = (1600, 1200)  # within the server's limit
    assert server.studio.menu.limits == Limits(megapixels=2, upload_mb=8, per_user=20)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1200, 1600, 3), np.uint8)).save(
        tmp_path / "large.jpg"
    )
    visitor.load(tmp_path / "large.jpg")
    assert visitor.canvas.evaluate("c => [c.width, c.height]") == list(size)
    box = visitor.canvas.bounding_box()
    visitor.page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    for _ in range(8):
        visitor.page.mouse.wheel(0, -300)
    visitor.page.wait_for_function("parseInt(document.querySelector('.hdp-zoom output').textContent) > 800")
    closer = visitor.canvas.bounding_box()
    assert closer["width"] > 8 * box["width"]
    visitor.page.mouse.down()  # the point under the mouse stayed there
    visitor.page.mouse.up()
    there = visitor.canvas.evaluate(
        "c => c.getContext('2d').getImageData(390, 290, 20, 20).data"
        ".filter((value, i) => i % 4 === 3 && value > 127).length"
    )
    assert there > 300
    visitor.page.keyboard.down(" ")
    visitor.page.mouse.down()
    visitor.page.mouse.move(box["x"] + box["width"] / 4 + 60, box["y"] + box["height"] / 4 + 40, steps=3)
    visitor.page.mouse.up()
    visitor.page.keyboard.up(" ")
    moved = visitor.canvas.bounding_box()
    assert (moved["x"] - closer["x"], moved["y"] - closer["y"]) == pytest.approx((60, 40), abs=1)
    visitor.tool("fit")
    assert visitor.canvas.bounding_box() == pytest.approx(box, abs=1)

    visitor.tool("clear")
    visitor.page.locator("#editor input[type=range]").fill("3")
    visitor.tool("brush")
    visitor.paint((0.5, 0.5), (0.5, 0.5))
    visitor.ask("a boat")
    drafts(visitor)
    visitor.press("copy-command")
    visitor.page.locator("#mask-download").wait_for()
    with visitor.page.expect_download() as download:
        visitor.press("mask-download")
    download.value.save_as(tmp_path / "mask.png")
    mask = np.array(Image.open(tmp_path / "mask.png")) > 127
    assert mask.shape == (1200, 1600) and 4 <= mask.sum() <= 16  # a dot of 3 pixels, not of a smaller copy's
