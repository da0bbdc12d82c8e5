"""The user study's page in a real browser, from the first choice to the figures."""

import json

import pytest

from eval.__main__ import main
from eval.study import contenders, page
from tests.eval.fake_run import fake_run

pytest.importorskip("playwright", reason="browser tests need playwright: pip install playwright")

from benchmarks.browser import LAPTOP, PHONE, Reader

PROMPTS = ["boat", "<b>$& cat</b>"]
LABELS = {"Stable Inpainting", "HD-Painter"}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    run = fake_run(folder / "run", 4, prompts=PROMPTS)
    methods = contenders([run.path / "stable-inpainting", run.path / "hd-painter"])
    (folder / "study.html").write_text(page(methods, samples=3), encoding="utf-8")
    return folder / "study.html"


@pytest.fixture(params=[LAPTOP, PHONE], ids=["laptop", "phone"])
def reader(browser, file, request):
    reader = Reader(browser, file, request.param, accept_downloads=True)
    yield reader
    assert reader.faults == []
    reader.close()


def begin(reader, name=""):
    reader.page.locator("[name=name]").fill(name)
    reader.page.get_by_role("button", name="Begin").click()
    reader.page.locator("#trial").wait_for()


def step(reader):
    return reader.page.locator("#step").inner_text()


def sources(reader):
    return reader.page.locator("#pair img").evaluate_all("all => all.map(one => one.src)")


def saved(reader, path):
    with reader.page.expect_download() as download:
        reader.page.get_by_role("button", name="Save the file").click()
    assert download.value.suggested_filename.startswith("choices-")
    download.value.save_as(path)
    return json.loads(path.read_text())


def test_a_whole_study_by_keyboard(reader, tmp_path, capsys):
    assert reader.page.locator("#welcome").is_visible() and reader.overflow == 0
    begin(reader, "Ada")
    asked, kept = [], []
    keys = ["ArrowLeft", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowRight", "ArrowDown"]
    for number, key in enumerate(keys, 1):
        assert step(reader) == f"Choice {number} of 6" and reader.overflow == 0
        assert reader.page.locator("#pair img").evaluate_all(
            "all => Promise.all(all.map(one => one.decode().then(() => one.naturalWidth)))"
        ) == [32, 32]
        assert not any(label in reader.page.locator("body").inner_text() for label in LABELS)
        asked.append(reader.page.locator("#question").inner_text())
        kept.append(sources(reader))
        reader.page.keyboard.press(key)
    assert {words[:19] for words in asked[:3]} == {"In which picture is"}
    assert any("“<b>$& cat</b>”" in words for words in asked) and len(set(asked[3:])) == 1
    assert all(left != right for left, right in kept)
    assert reader.page.get_by_role("heading", name="Thank you!").is_visible()

    ballot = saved(reader, tmp_path / "choices.json")
    assert ballot["name"] == "Ada" and ballot["complete"] is True
    chosen = [answer["choice"] for answer in ballot["answers"]]
    assert chosen == ["left", "right", "tie"] * 2
    assert all({answer["left"], answer["right"]} == LABELS for answer in ballot["answers"])
    assert [answer["question"] for answer in ballot["answers"]] == ["prompt"] * 3 + ["quality"] * 3
    assert main(["study", "--collect", str(tmp_path / "choices.json")]) == 0
    report = capsys.readouterr().out
    assert "1 raters, 0 of them not finished; 6 choices" in report and "## Overall quality" in report


def test_what_was_chosen_is_what_stood_there(reader, file, tmp_path):
    """The label that is saved for a side is that of the picture which was shown on it."""
    begin(reader)
    shown = []
    for _ in range(6):
        shown.append((reader.page.locator("#input").get_attribute("src"), *sources(reader)))
        reader.page.locator("#pair button").first.click()
    data = json.loads(reader.page.locator("#data").text_content())
    pictures = {sample["input"]: sample for sample in data["samples"]}
    order = ["Stable Inpainting", "HD-Painter"]
    for (photo, left, right), answer in zip(
        shown, saved(reader, tmp_path / "a.json")["answers"], strict=True
    ):
        sample = pictures[photo]
        assert sample["index"] == answer["sample"] and answer["choice"] == "left"
        assert sample["results"][order.index(answer["left"])] == left
        assert sample["results"][order.index(answer["right"])] == right


def test_progress_is_kept_and_choices_can_be_taken_back(reader):
    begin(reader)
    reader.page.keyboard.press("ArrowLeft")
    reader.page.keyboard.press("ArrowRight")
    third = sources(reader)
    reader.page.reload()
    assert step(reader) == "Choice 3 of 6" and sources(reader) == third
    reader.page.keyboard.press("Backspace")
    assert step(reader) == "Choice 2 of 6"
    reader.page.keyboard.press("Control+ArrowLeft")  # the browser's own
    assert step(reader) == "Choice 2 of 6"
    reader.page.get_by_role("button", name="Back").click()
    assert step(reader) == "Choice 1 of 6" and reader.page.get_by_role("button", name="Back").is_disabled()
    reader.page.keyboard.press("Backspace")
    assert step(reader) == "Choice 1 of 6"


def test_raters_have_orders_of_their_own(browser, file):
    orders = set()
    for _ in range(4):
        reader = Reader(browser, file)
        begin(reader)
        order = []
        for _ in range(6):
            order += sources(reader)
            reader.page.keyboard.press("ArrowDown")
        orders.add(tuple(order))
        reader.close()
    assert len(orders) > 1
