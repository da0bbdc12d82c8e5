"""The report in a real browser, as wide as a laptop's screen and a phone's."""

import pytest

from eval.report import page
from eval.summary import summarise
from tests.eval.fake_run import CATEGORIES, METHODS, fake_run
from tests.eval.test_report import EVIL

pytest.importorskip("playwright", reason="browser tests need playwright: pip install playwright")

from benchmarks.browser import LAPTOP, PHONE, Reader

LONG = {
    "label": "a method of no use whose name is_long_and_without_any_place_to_break_it",
    "kind": "pipeline",
}

WIDE = {"label": "MMMMMMMMMM WWWWWWWWWW 猫が時計を見ている風景 " * 3, "kind": "pipeline"}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    methods = {**METHODS, "long": LONG, "wide": WIDE}
    run = fake_run(folder / "run", 30, methods=methods, prompts=[*CATEGORIES, EVIL, "y" * 90])
    (folder / "report.html").write_text(page(summarise(run, repeats=100), "table1"), encoding="utf-8")
    return folder / "report.html"


@pytest.fixture(params=[LAPTOP, PHONE], ids=["laptop", "phone"])
def reader(browser, file, request):
    reader = Reader(browser, file, request.param)
    yield reader
    assert reader.faults == []
    reader.close()


def number_of(reader):
    return int(reader.page.locator("#count").inner_text().split()[0])


def test_the_page_is_never_wider_than_the_window(reader):
    assert reader.overflow == 0
    reader.page.locator("#failures details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    reader.page.locator("#failures details:last-of-type .card").last.wait_for(state="attached")
    assert reader.page.locator("#failures .card").count() > 12
    assert reader.overflow == 0


def test_labels_of_bars_are_whole_and_off_their_values_and_bars(reader):
    gaps = reader.page.locator(".chart .bars").evaluate_all(
        """all => all.flatMap(one => {
            const [chart, label, value, bar] = [one.closest("figure"), one.querySelector(".label"),
                one.querySelector(".value"), one.querySelector("rect")];
            const range = document.createRange();
            range.selectNodeContents(label);
            const [frame, words, number, drawn] = [chart, range, value, bar].map(a => a.getBoundingClientRect());
            return [number.left - words.right, frame.right - number.right, words.left - frame.left,
                drawn.top - words.bottom, drawn.top - number.bottom];
        })"""
    )
    assert len(gaps) > 150 and min(gaps) >= 0


def test_tables_fit_the_window_with_every_cell_in_it(reader):
    tables = reader.page.locator(".scroll")
    if reader.page.viewport_size == PHONE:
        assert all(tables.evaluate_all("all => all.map(one => one.scrollWidth <= one.clientWidth)"))
        cell = reader.page.locator("#measured tbody tr", has_text="HD-Painter").first.locator("td").nth(1)
        assert cell.evaluate("c => getComputedStyle(c, '::before').content") == '"CLIP (mini) ↑"'
    else:  # all but the widest
        fit = tables.evaluate_all("all => all.map(one => one.scrollWidth <= one.clientWidth + 120)")
        assert len(fit) > 5 and all(fit)


def test_groups_of_methods_can_be_folded(reader):
    table = reader.page.locator("#measured")
    row = table.locator("tr", has_text="HD-Painter").first
    head = table.get_by_role("button", name="Methods", exact=True)
    assert row.is_visible() and head.get_attribute("aria-expanded") == "true"
    head.press("Enter")
    assert not row.is_visible() and head.get_attribute("aria-expanded") == "false"
    assert table.locator("tr", has_text="original image").is_visible()
    head.click()
    assert row.is_visible()
    chart = reader.page.locator(".chart").first
    bars = chart.locator(".bars")
    assert bars.count() == 6 and bars.first.is_visible()
    chart.get_by_text("Methods", exact=True).click()
    assert not bars.first.is_visible() and bars.last.is_visible()  # the bound
    assert reader.overflow == 0


def test_the_gallery_shows_its_samples_and_filters_them(reader):
    assert reader.page.locator("#count").inner_text() == "30 of 30 samples"
    shown = reader.cards.count()
    assert 12 <= shown <= 30 and reader.cards.first.locator("img").count() == 1 + 6
    reader.page.locator("#more").evaluate("button => button.hidden || button.click()")
    assert reader.cards.count() > min(shown, 29)

    reader.choose("outcome", 2)  # fails
    fewer = number_of(reader)
    assert 0 < fewer < 30
    marks = reader.cards.locator(
        "figure:nth-child(4) small:first-of-type"
    ).all_text_contents()  # HD-Painter's
    assert marks and all(mark.startswith("✗ not detected (mini)") for mark in marks)
    reader.choose("prompt", 1)
    assert number_of(reader) < fewer and reader.overflow == 0
    reader.page.get_by_role("button", name="Reset").click()
    reader.page.locator("#count", has_text="30 of 30").wait_for()


def test_a_picture_can_be_enlarged(reader):
    assert not reader.viewer.is_visible()
    reader.enlarge(0, 0)
    picture = reader.viewer.locator("img")
    assert reader.viewer.is_visible() and reader.viewer.locator("p").inner_text().endswith("input and mask")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 32
    box, window = reader.viewer.bounding_box(), reader.page.viewport_size
    assert box["x"] >= 0 and box["x"] + box["width"] <= window["width"]
    assert box["y"] >= 0 and box["y"] + box["height"] <= window["height"]
    reader.viewer.get_by_role("button", name="Next").click()
    assert reader.viewer.locator("p").inner_text().endswith("Stable Inpainting")
    reader.page.keyboard.press("Escape")
    assert not reader.viewer.is_visible()


def test_a_miniatures_judgements_are_marked_as_such(reader):
    for judged in ("detected (mini)", "acc_release (mini)", "CLIP (mini)", "preference logit (mini)"):
        assert judged in reader.card(0).inner_text()
    outcomes = reader.page.locator("#filters [name=outcome] option").all_inner_texts()
    assert len(outcomes) == 9 and all("(mini)" in words for words in outcomes[1:])
    orders = reader.page.locator("#filters [name=order] option").all_inner_texts()
    assert all("(mini)" in words for words in orders if "CLIP" in words)


def test_prompts_are_words_on_the_page_too(reader):
    reader.choose("prompt", 1 + sorted([*CATEGORIES, EVIL, "y" * 90], key=str.casefold).index(EVIL))
    assert reader.card(0).locator("h3").inner_text().startswith("</script><img src=x onerror=")
    assert reader.page.title() == "Table 1: comparison with other methods"
