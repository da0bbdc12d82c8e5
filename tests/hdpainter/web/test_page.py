"""The page in a real browser: what a user does, and what comes out."""

import json
import time

import numpy as np
import pytest
from PIL import Image

from hdpainter.images import load_image
from hdpainter.models.identity import identify
from hdpainter.web.limits import Limits
from hdpainter.web.menu import Menu

pytest.importorskip("playwright", reason="browser tests need playwright: pip install playwright")

from benchmarks.browser import LAPTOP, PATIENCE, PHONE, Tab, Visitor


def save(visitor, button, path):
    with visitor.page.expect_download() as download:
        visitor.press(button)
    download.value.save_as(path)
    return download.value.suggested_filename


def test_from_a_photo_to_the_download(visitor, picture, tmp_path):
    assert visitor.page.locator("#seed input").get_attribute("placeholder") == "random"
    visitor.page.wait_for_function("document.querySelector('#seed input').value === ''", timeout=20_000)
    visitor.press("run")
    visitor.wait_for("There is no photo yet")  # whatever else is missing
    visitor.load(picture)
    visitor.ask("a red boat")
    visitor.set("Steps", 2)
    visitor.press("run")
    visitor.wait_for("The mask is empty")
    visitor.paint((0.3, 0.5), (0.7, 0.5), (0.5, 0.7))
    visitor.press("run")
    visitor.wait_for("Drafts: done")
    assert visitor.drafts.count() == 2
    visitor.page.locator("#result", has_text="Draft, seed").wait_for()
    seed = int(visitor.page.locator("#seed input").input_value())

    visitor.drafts.nth(1).click()
    visitor.page.locator("#result", has_text=f"seed {seed + 1}").wait_for()
    handle = visitor.page.get_by_role("slider", name="before and after")
    place, told = handle.bounding_box()["x"], int(handle.get_attribute("aria-valuenow"))
    handle.press("ArrowRight")
    visitor.page.wait_for_timeout(300)
    assert handle.bounding_box()["x"] > place
    assert 0 < told < int(handle.get_attribute("aria-valuenow")) < 100
    visitor.press("finish")
    visitor.page.locator("#result", has_text="Finished, seed").wait_for()
    superres = visitor.page.get_by_label("Super-resolution of the picked draft")
    superres.uncheck()
    visitor.press("finish")
    visitor.wait_for("Full size: done")
    save(visitor, "download", tmp_path / "out.png")
    assert not json.loads(Image.open(tmp_path / "out.png").text["hdpainter"])["inputs"]["superres"]
    superres.check()
    visitor.press("finish")
    visitor.wait_for("Super-resolution: done")
    assert save(visitor, "download", tmp_path / "out.png") == "a-red-boat.png"
    visitor.press("copy-command")
    visitor.page.locator("#mask-download").wait_for()
    assert save(visitor, "mask-download", tmp_path / "mask.png") == "mask.png"

    before, result = np.array(load_image(picture)), Image.open(tmp_path / "out.png")
    filled = np.array(Image.open(tmp_path / "mask.png")) > 127
    assert result.size == (90, 120) and 0.02 < filled.mean() < 0.5
    assert (np.array(result) == before)[~filled].all()
    assert not (np.array(result) == before)[filled].all()
    record = json.loads(result.text["hdpainter"])
    assert (record["inputs"]["seed"], record["inputs"]["prompt"]) == (seed + 1, "a red boat")
    assert record["inputs"]["superres"]
    visitor.page.locator("#copy-command", has_text="Copied").wait_for()
    command = visitor.page.evaluate("navigator.clipboard.readText()")
    visitor.page.locator("#copy-command", has_text="Copy as command").wait_for()
    assert visitor.page.locator("#recipe textarea").input_value() == command
    assert "--image 'my photo.png' --mask mask.png --prompt 'a red boat'" in command
    assert f"--method hd-painter --seed {seed + 1} --steps 2 --out" in command

    seen = visitor.page.locator("#seen")
    assert "128 pixels" not in seen.inner_text()
    visitor.page.get_by_label("Longer side of a draft").fill("128")
    seen.get_by_text("128 pixels").wait_for()  # without a stroke
    visitor.drafts.nth(0).click()
    visitor.page.locator("#recipe").wait_for(state="hidden")  # it told how the other one is made
    assert not visitor.page.locator("#mask-download").is_visible()
    visitor.page.evaluate("navigator.clipboard.writeText('mine')")
    visitor.example(0)
    visitor.wait_for("Paint over what to replace")
    visitor.tool("clear")
    visitor.press("copy-yaml")
    visitor.wait_for("The mask is empty")
    assert visitor.page.evaluate("navigator.clipboard.readText()") == "mine"


def test_cancel_works_at_once_and_the_next_job_too(visitor, server, picture):
    visitor.load(picture)
    visitor.paint((0.4, 0.4), (0.6, 0.6))
    visitor.ask("a boat")
    visitor.set("Steps", 200)
    visitor.press("run")
    visitor.wait_for("step 1")
    visitor.press("cancel")
    pressed = time.monotonic()
    visitor.wait_for("Cancelled.")
    print(f"cancelled after {time.monotonic() - pressed:.2f} s")
    orders = [session.orders for session in server.studio.sessions.all()]
    (order,) = next(some for some in orders if some and some[0].state == "cancelled")
    step = order.steps[0]
    visitor.page.wait_for_timeout(1000)
    assert order.steps[0] <= step + 1 < 200
    visitor.set("Steps", 1)
    visitor.set("Drafts", 1)
    visitor.press("run")
    visitor.wait_for("Drafts: done")
    assert visitor.drafts.count() == 1


def test_side_by_side(visitor, picture):
    visitor.load(picture)
    visitor.paint((0.4, 0.4), (0.6, 0.6))
    visitor.ask("a boat")
    visitor.set("Steps", 2)
    visitor.page.get_by_label("Keep the seed").check()
    visitor.page.locator("#seed input").fill("11")
    visitor.press("compare")
    visitor.wait_for("Side by side: done")
    captions = visitor.page.locator("#drafts .caption-label").all_inner_texts()
    names = ("Stable Inpainting", "PAIntA", "RASG", "HD-Painter")
    assert captions == [f"seed 11, {name}" for name in names]


def test_painting(visitor, picture, mask):
    visitor.load(picture)
    assert visitor.painted() == 0
    visitor.paint((0.2, 0.2), (0.8, 0.2))
    stroke = visitor.painted()
    assert 500 < stroke < 1000  # 54 x 9 pixels and two round ends
    visitor.tool("eraser")
    visitor.paint((0.5, 0.1), (0.5, 0.3))
    erased = visitor.painted()
    assert erased < stroke
    visitor.tool("invert")
    assert visitor.painted() == pytest.approx(
        90 * 120 - erased, abs=60
    )  # half covered pixels count for one side
    visitor.tool("undo")
    visitor.tool("undo")
    assert visitor.painted() == stroke
    visitor.tool("redo")
    assert visitor.painted() == erased
    visitor.tool("clear")
    assert visitor.painted() == 0
    with visitor.page.expect_file_chooser() as chooser:
        visitor.press("mask-file")
    chooser.value.set_files(mask)
    visitor.page.locator("#seen", has_text="19 % of the photo is filled").wait_for()
    assert visitor.painted() == 2000

    visitor.page.keyboard.press("Delete")
    visitor.tool("brush")
    visitor.canvas.focus()
    visitor.page.keyboard.down(" ")
    visitor.page.keyboard.press("ArrowRight")
    visitor.page.keyboard.press("ArrowRight")
    visitor.page.keyboard.up(" ")
    assert visitor.painted() > 50
    visitor.page.keyboard.press("Control+z")
    assert visitor.painted() == 0

    visitor.page.keyboard.down(" ")
    visitor.page.locator("#lock input").focus()
    visitor.canvas.focus()
    dot = visitor.painted()
    visitor.page.keyboard.press("ArrowRight")
    assert visitor.painted() == dot > 0
    visitor.page.keyboard.up(" ")
    visitor.page.locator("#run").focus()
    visitor.page.keyboard.press("Delete")
    assert visitor.painted() == dot


def test_escape_closes_a_list_before_it_cancels(visitor, picture):
    visitor.load(picture)
    visitor.paint((0.4, 0.4), (0.6, 0.6))
    visitor.ask("a boat")
    visitor.set("Steps", 200)
    visitor.press("run")
    visitor.wait_for("step 1")
    visitor.page.get_by_label("Method", exact=True).click()
    visitor.page.locator("[aria-expanded=true]").wait_for()
    visitor.page.keyboard.press("Escape")
    visitor.page.wait_for_timeout(500)
    assert "Cancelled" not in visitor.status
    visitor.page.locator("#run").focus()
    visitor.page.keyboard.press("Escape")
    visitor.wait_for("Cancelled.")


def hand_over(visitor, path, event, width):
    """Paste or drop a picture, and wait until the editor has it."""
    prevented = visitor.page.evaluate(
        """([bytes, name]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "given.png", {type: "image/png"}));
            const event = name === "paste"
                ? new ClipboardEvent(name, {clipboardData: transfer, bubbles: true, cancelable: true})
                : new DragEvent(name, {dataTransfer: transfer, bubbles: true, cancelable: true});
            document.querySelector("#prompt").dispatchEvent(event);
            return event.defaultPrevented;
        }""",
        [list(path.read_bytes()), event],
    )
    assert prevented  # or the browser would leave the page
    visitor.page.wait_for_function(f"document.querySelector('#editor canvas').width === {width}")
    visitor.canvas.wait_for(state="visible")


def test_pictures_from_the_clipboard_and_dropped_ones_take_each_others_place(visitor, picture, tmp_path):
    hand_over(visitor, picture, "paste", 90)
    assert visitor.canvas.evaluate("c => [c.width, c.height]") == [90, 120]  # upright
    Image.new("RGB", (70, 50)).save(tmp_path / "second.png")
    hand_over(visitor, tmp_path / "second.png", "drop", 70)
    hand_over(visitor, picture, "paste", 90)
    visitor.example(0)
    visitor.page.locator("#photo input[type=file]").wait_for(state="attached")  # it is empty again


@pytest.mark.parametrize("viewport", [LAPTOP, PHONE])
def test_a_photo_keeps_its_shape(browser, server, tmp_path, viewport):
    visitor = Visitor(browser, server.url, viewport)
    for size in ((160, 90), (600, 100), (90, 160), (1200, 900)):
        Image.new("RGB", size).save(tmp_path / "photo.png")
        visitor.load(tmp_path / "photo.png")
        visitor.page.wait_for_function(f"document.querySelector('#editor canvas').width === {size[0]}")
        for selector in ("canvas", ".hdp-photo"):
            box = visitor.page.locator(f"#editor {selector}").bounding_box()
            assert box["width"] / box["height"] == pytest.approx(size[0] / size[1], rel=0.02)
            assert 150 < box["width"] < viewport["width"] and box["height"] < 0.75 * viewport["height"]
    visitor.close()


def test_a_phone(browser, server, picture):
    phone = Visitor(browser, server.url, PHONE, has_touch=True, is_mobile=True)
    phone.load(picture)
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    phone.canvas.scroll_into_view_if_needed()
    phone.canvas.tap()
    assert phone.painted() > 30
    phone.close()


def test_a_bad_photo_is_told_and_a_good_one_works(visitor, picture, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    visitor.page.set_input_files("#photo input[type=file]", tmp_path / "notes.png")
    visitor.wait_for("Notes.png is not a picture that can be read")
    visitor.example(0)
    visitor.wait_for("Paint over what to replace")
    before = visitor.painted()
    assert before > 0 and visitor.page.locator("#prompt textarea").input_value()
    visitor.page.set_input_files("#photo input[type=file]", tmp_path / "notes.png")
    visitor.wait_for("Notes.png is not a picture that can be read")
    assert visitor.painted() == before  # photo and mask are still there


def test_a_photo_may_come_before_the_page_has_its_first_answer(browser, server, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    tab = Tab(browser, server.url, LAPTOP, PATIENCE)
    asked = []  # what the page asks for as it opens
    tab.page.route("**/run/predict*", lambda route: asked.append(route), times=1)
    tab.page.goto(server.url)
    tab.page.set_input_files("#photo input[type=file]", tmp_path / "notes.png")
    told = tab.page.locator("#status", has_text="Notes.png is not a picture that can be read")
    told.wait_for()
    asked[0].continue_()
    tab.page.wait_for_function("document.querySelector('#seed input').value === ''")  # it is answered
    assert told.count() == 1
    tab.close()


@pytest.mark.slow
def test_a_photo_of_24_megapixels(browser, tiny_pipeline, loaded, tmp_path):
    from hdpainter.web.server import Server

    columns, rows = np.meshgrid(np.arange(6000), np.arange(4000))
    grain = np.random.default_rng(0).integers(0, 32, (4000, 6000), np.uint8)
    pixels = np.stack([columns // 24, rows // 16, (columns + rows) // 40], -1) % 224 + grain[..., None]
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "large.jpg", quality=90)
    started = time.monotonic()
    with Server(Menu({str(tiny_pipeline): True}, Limits()), loaded, identify) as server:
        visitor = Visitor(browser, server.url)
        visitor.load(tmp_path / "large.jpg")
        print(f"24 megapixels on the page after {time.monotonic() - started:.1f} s")
        visitor.paint((0.5, 0.5), (0.6, 0.5))
        visitor.ask("a red boat")
        visitor.set("Steps", 1)
        visitor.set("Drafts", 1)
        visitor.press("run")
        visitor.wait_for("Drafts: done")
        visitor.press("finish")
        visitor.page.locator("#result", has_text="Finished, seed").wait_for()
        save(visitor, "download", tmp_path / "out.png")
        visitor.press("copy-command")
        visitor.page.locator("#mask-download").wait_for()
        save(visitor, "mask-download", tmp_path / "mask.png")
        visitor.close()
    before, after = (np.array(load_image(tmp_path / name)) for name in ("large.jpg", "out.png"))
    filled = np.array(Image.open(tmp_path / "mask.png")) > 127
    assert after.shape == before.shape == (4000, 6000, 3) and 0.002 < filled.mean() < 0.05
    assert (after == before)[~filled].all()
    assert not (after == before)[filled].all()


@pytest.mark.slow
def test_twenty_jobs_of_five_tabs_all_finish_with_correct_results(browser, server, picture, painter):
    visitors = [Visitor(browser, server.url) for _ in range(5)]
    for number, visitor in enumerate(visitors):
        visitor.load(picture)
        visitor.paint((0.3, 0.3), (0.7, 0.3 + number / 10))
        visitor.ask(f"boat {number}")
        visitor.set("Steps", 2)
        visitor.set("Drafts", 1)
    started = time.monotonic()
    for _ in range(4):
        for visitor in visitors:
            visitor.press("run")
    for visitor in visitors:
        visitor.page.wait_for_function(
            "document.querySelectorAll('#drafts button.thumbnail-item').length === 4"
        )
    print(f"20 orders of 5 tabs in {time.monotonic() - started:.1f} s")
    sessions = {s.groups[0][0].recipe.prompt: s for s in server.studio.sessions.all() if len(s.drafts) == 4}
    assert sorted(sessions) == [f"boat {number}" for number in range(5)]
    for prompt, session in sessions.items():
        seeds = {draft.recipe.settings.seed for draft in session.drafts}
        assert len(seeds) == 4 and {draft.recipe.prompt for draft in session.drafts} == {prompt}
        draft = session.drafts[0]
        image, grey = draft.subject.load()
        seed, method = draft.recipe.settings.seed, draft.recipe.method
        wanted = painter.draft(image, grey, prompt, method=method, seed=seed)
        assert np.array_equal(Image.open(draft.low_res), wanted)
    for visitor in visitors:
        visitor.close()
