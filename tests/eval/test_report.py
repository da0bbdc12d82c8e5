"""The report's page: what is in it, that it is harmless, and that it stays within its size."""

import base64
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval.__main__ import main
from eval.charts import Bar, bar_chart
from eval.gallery import THUMBNAIL, Gallery, outlined, thumbnail
from eval.report import page
from eval.runs import MANIFEST
from eval.summary import summarise
from tests.eval.fake_run import fake_run, write_scores

REPEATS = 100
EVIL = "</script><img src=x onerror=document.title=1> & \"quotes\" 'n' \u2028 <!--"


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    return summarise(fake_run(tmp_path_factory.mktemp("run"), 30), repeats=REPEATS)


@pytest.fixture(scope="module")
def html(summary):
    return page(summary, "table1")


class Document(HTMLParser):
    """Tags in order, text by tag, and whether every element is closed by its own tag."""

    VOID = ("meta", "img", "br", "line", "rect")

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.texts = [], [], {}
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


def data_of(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def picture_of(uri):
    kind, _, content = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_page_loads_nothing_from_elsewhere(html):
    document = Document(html)
    assert not re.search(r"https?:|url\(|@import", html)
    assert not [tag for tag, a in document.tags if tag in ("link", "iframe") or "src" in a]
    policy = next(
        a["content"] for tag, a in document.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy and "img-src data:" in policy
    assert all(a["href"].startswith("#") for tag, a in document.tags if tag == "a")


def test_every_anchor_has_its_target(html):
    document = Document(html)
    ids = [a["id"] for _, a in document.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in document.tags if tag == "a"} <= set(ids)


def test_words_of_prompts_and_labels_are_only_words(tmp_path):
    methods = {
        "evil": {"label": EVIL, "kind": "pipeline"},
        "gone": {"label": EVIL, "kind": "x", "why_not": EVIL},
    }
    run = fake_run(tmp_path / "run", 6, methods=methods, prompts=[EVIL])
    html = page(summarise(run, repeats=REPEATS))
    plain = page(summarise(fake_run(tmp_path / "plain", 6, methods={"x": {"label": "x"}}), repeats=REPEATS))
    count = [sum(tag in ("script", "img") for tag, _ in Document(text).tags) for text in (html, plain)]
    assert count[0] == count[1] and "<img src=x" not in html
    assert not [a for _, a in Document(html).tags if any(name.startswith("on") for name in a)]
    data = data_of(html)
    assert {sample["prompt"] for sample in data["samples"]} == {EVIL}
    assert data["methods"][0]["label"] == EVIL


def test_all_samples_and_scores_are_in_the_gallery(summary, html):
    data = data_of(html)
    assert [sample["index"] for sample in data["samples"]] == list(range(30))
    assert [method["name"] for method in data["methods"]] == [row.name for row in summary.measured]
    assert data["methods"][data["ours"]]["name"] == "hd-painter"
    assert data["methods"][data["baseline"]]["name"] == "stable-inpainting"
    run = summary.run
    for sample in data["samples"]:
        i = sample["index"]
        assert sample["prompt"] == run.triplets[i].prompt
        for method, result in zip(data["methods"], sample["results"], strict=True):
            assert result["clip"] == round(run.scores(method["name"], "clip")["clip"][i], 2)
            assert result["acc"] == run.scores(method["name"], "accuracy")["acc"][i]
            assert result["release"] == run.scores(method["name"], "accuracy")["acc_release"][i]
            shift = run.scores(method["name"], "saturation")["saturation_shift"][i]
            assert result["shift"] == round(shift, 1) and result["change"] == 3
            assert result["label"] == "boat"
    assert "All 30 samples are on this page." in html


def test_words_that_no_sample_has_are_left_out(tmp_path):
    run = fake_run(tmp_path / "run", 4, metrics=())
    rows = [{"index": i, "acc": 0, "best_label": None, "best_score": None} for i in range(4)]
    write_scores(run, "painta", "accuracy", rows)
    data = data_of(page(summarise(run, repeats=REPEATS)))
    place = [method["name"] for method in data["methods"]].index("painta")
    assert all(sample["results"][place].keys() == {"src", "acc"} for sample in data["samples"])


def test_the_gallery_says_which_of_several_seeds_it_shows(tmp_path):
    methods = {
        f"painta,seed={seed}": {
            "label": f"PAIntA, seed {seed}",
            "base": "painta",
            "kind": "pipeline",
            "varied": {"seed": seed},
        }
        for seed in (4, 5)
    }
    data = data_of(page(summarise(fake_run(tmp_path / "run", 4, methods=methods), repeats=REPEATS)))
    assert [method["label"] for method in data["methods"]] == [
        "PAIntA (2 seeds): picture and scores of seed 4"
    ]


def test_pictures_are_those_of_the_run(summary, html):
    run = summary.run
    index = int(run.mask_shares.argmax())
    sample = data_of(html)["samples"][index]
    inside = run.mask(index)
    for shift in ((0, 3), (0, -3), (3, 0), (-3, 0)):  # WebP blurs the mask's border
        inside &= np.roll(run.mask(index), shift, (0, 1))
    for row, result in zip(summary.measured, sample["results"], strict=True):
        shown = np.asarray(picture_of(result["src"]).convert("RGB")).astype(float)
        stored = run.result(row.name, index)
        assert shown.shape == stored.shape
        assert inside.any() and np.abs(shown - stored)[inside].mean() < 6
    assert max(picture_of(sample["input"]).size) <= THUMBNAIL


def test_outline_follows_the_masks_border(summary):
    run = summary.run
    picture, mask = outlined(run, run.triplets[0]), run.mask(0)
    changed = (picture != run.image(0)).any(-1)
    assert (picture[mask] == 255).all(-1).any()
    far = np.zeros_like(mask)
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            far |= np.roll(mask, (dy, dx), (0, 1)) != mask
    assert changed.any() and not changed[~far].any()


@given(st.integers(1, 700), st.integers(1, 700))
@settings(max_examples=15, deadline=None)
def test_thumbnails_keep_the_shape_and_never_grow(height, width):
    size = picture_of(thumbnail(np.zeros((height, width, 3), np.uint8))).size
    assert max(size) == min(max(width, height), THUMBNAIL)
    scale = max(size) / max(width, height)
    assert abs(size[0] - width * scale) <= 1 and abs(size[1] - height * scale) <= 1


def test_page_keeps_to_its_size_and_says_what_is_left_out(summary):
    whole = page(summary)
    bare = len(whole) - len(json.dumps(data_of(whole)["samples"], separators=(",", ":")))
    html = page(summary, max_mb=0.02)
    data = data_of(html)
    there = [sample["index"] for sample in data["samples"]]
    assert 0 < len(there) < 30 and there == sorted(there)
    assert len(html) < bare + 0.02e6 + 1000
    assert f"{len(there)} of 30 samples are on this page" in html and "0.02 MB" in html
    worst = Gallery(summary).failures()[0].indices
    assert set(worst[: len(there)]) <= set(there)  # failures come first
    for kind in data["failures"]:
        assert set(kind["indices"]) <= set(there)


def test_failures_are_failures(summary):
    run = summary.run
    acc = {
        name: run.scores(name, "accuracy")["acc"] for name in ("stable-inpainting", "painta", "hd-painter")
    }
    lost, none, less, seams = Gallery(summary).failures()
    expected = np.flatnonzero((acc["hd-painter"] == 0) & (acc["stable-inpainting"] == 1))
    assert set(lost.indices) <= set(expected) and len(lost.indices) == min(12, len(expected))
    assert all(not any(column[i] for column in acc.values()) for i in none.indices)
    gap = [run.scores(name, "minipick")["logit"] for name in ("hd-painter", "stable-inpainting")]
    assert less.indices[0] == np.argmin(gap[0] - gap[1])
    assert seams.indices[0] == np.argmax(run.scores("hd-painter", "seam")["seam"])


def test_failures_say_who_judged_and_how_they_are_ordered(tmp_path):
    run = fake_run(tmp_path / "run", 30)
    told = [(kind.title, kind.note) for kind in Gallery(summarise(run, repeats=REPEATS)).failures()]
    assert told == [
        ("HD-Painter fails, Stable Inpainting succeeds, by acc (mini)", "Largest loss of CLIP (mini) first."),
        ("No method succeeds, by acc (mini)", "Lowest CLIP (mini) of HD-Painter first."),
        ("Stable Inpainting preferred to HD-Painter, by preference (mini)", "Clearest first."),
        ("Most visible seams of HD-Painter", "Strongest first."),
    ]
    run.score_path("stable-inpainting", "clip").unlink()
    lost, none, *_ = Gallery(summarise(run, repeats=REPEATS)).failures()
    assert lost.note == "In the benchmark's order." and lost.indices == sorted(lost.indices)
    assert none.note == "Lowest CLIP (mini) of HD-Painter first."
    run.score_path("hd-painter", "clip").unlink()
    lost, none, *_ = Gallery(summarise(run, repeats=REPEATS)).failures()
    assert lost.note == none.note == "In the benchmark's order."
    assert none.indices == sorted(none.indices)


def test_a_failure_without_a_score_is_still_one(tmp_path):
    run = fake_run(tmp_path / "run", 30)
    acc = [run.scores(name, "accuracy")["acc"] for name in ("stable-inpainting", "painta", "hd-painter")]
    first, second = np.flatnonzero(np.sum(acc, axis=0) == 0)[:2]
    clip = run.scores("hd-painter", "clip")["clip"]
    rows = [{"index": i, "clip": clip[i]} for i in range(30) if i != first]
    write_scores(run, "hd-painter", "clip", rows)
    none = next(
        kind for kind in Gallery(summarise(run, repeats=REPEATS)).failures() if "No method" in kind.title
    )
    assert none.indices[-1] == first and second in none.indices[:-1]


def test_report_after_a_run_of_some_samples(write_config, tmp_path):
    config = write_config({name: {"kind": name} for name in ("original", "mean")})
    run, out = str(tmp_path / "run"), tmp_path / "report.html"
    assert main(["generate", "--config", str(config), "--limit", "2"]) == 0
    assert main(["score", run, "--metric", "seam", "--device", "cpu"]) == 0
    assert main(["report", run, "--out", str(out), "--repeats", "100"]) == 0
    html = out.read_text(encoding="utf-8")
    assert [sample["index"] for sample in data_of(html)["samples"]] == [0, 1]
    assert "All 2 samples that count are on this page; the list has 6." in html
    assert "2 of the list&#x27;s 6 triplets" in html


def test_report_of_a_run_without_results(tmp_path):
    run = fake_run(tmp_path / "run", 4, methods={"glide": {"label": "GLIDE", "why_not": "no weights"}})
    html = page(summarise(run, repeats=REPEATS))
    assert data_of(html)["samples"] == [] and "All 0 samples that count" in html


def test_the_gallery_has_what_the_tables_count(tmp_path):
    run = fake_run(tmp_path / "run", 30)
    for i in range(20, 30):
        run.result_path("painta", i).unlink()
    data = data_of(page(summarise(run, common=True, repeats=REPEATS)))
    assert [sample["index"] for sample in data["samples"]] == list(range(20))
    assert all(max(kind["indices"]) < 20 for kind in data["failures"])


def test_a_run_without_scores_still_has_a_gallery(tmp_path):
    run = fake_run(tmp_path / "run", 4, metrics=())
    run.result_path("painta", 2).unlink()
    manifest = run.folder("hd-painter") / MANIFEST
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:3]))
    html = page(summarise(run, repeats=REPEATS))
    data = data_of(html)
    assert data["failures"] == [] and len(data["samples"]) == 4
    names = [method["name"] for method in data["methods"]]
    missing = {
        names[k]: i
        for i, sample in enumerate(data["samples"])
        for k, result in enumerate(sample["results"])
        if result is None
    }
    assert missing == {"painta": 2, "hd-painter": 3}, "what the manifest does not list does not count"
    assert html.count("Not scored.") == 3 and "not run: weights not included" in html


def test_categories_have_a_row_each(html):
    table = re.search(r'<table class="sortable shares">(.*?)</table>', html, re.S)[1]
    assert re.findall(r'<th scope="row">(.*?)</th>', table) == ["boat", "cat", "clock", "kite"]
    assert [int(n) for n in re.findall(r'</th><td data-label="n" data-value="(\d+)">', table)] == [8, 8, 7, 7]


def test_categories_count_what_was_scored(tmp_path):
    run = fake_run(tmp_path / "run", 30)
    for name, kept in (("stable-inpainting", 7), ("painta", 6), ("hd-painter", 7), ("original", 7)):
        for i in range(kept, 30):
            run.result_path(name, i).unlink()
    html = page(summarise(run, repeats=REPEATS))
    table = re.search(r'<table class="sortable shares">(.*?)</table>', html, re.S)[1]
    assert [int(n) for n in re.findall(r'</th><td data-label="n" data-value="(\d+)">', table)] == [2, 2, 2, 1]
    clock = re.search(r'<th scope="row">clock</th>(.*?)</tr>', table)[1]
    assert clock.count("(n = 1)") == 1  # PAIntA's, of two
    assert "n: triplets with a score, 7 of the list&#x27;s 30." in html


def percent(element, name):
    return float(element.attrib[name].rstrip("%"))


@given(
    st.lists(
        st.tuples(st.floats(-1e4, 1e4), st.floats(0, 100), st.floats(0, 100)).filter(
            lambda v: abs(v[0]) > 1e-3
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_bars_and_intervals_are_where_their_values_are(values):
    bars = [Bar(f"m{i}", v, v - a, v + b, "text") for i, (v, a, b) in enumerate(values)]
    root = ET.fromstring(bar_chart(bars))
    rectangles, intervals = root.findall(".//rect"), root.findall(".//g/line[1]")
    zero = percent(root.find(".//line[@class='zero']"), "x1")
    scales = []
    for bar, rectangle, interval in zip(bars, rectangles, intervals, strict=True):
        x, width = percent(rectangle, "x"), percent(rectangle, "width")
        assert x >= 0 and x + width <= 100.02
        assert (
            x == pytest.approx(zero, abs=0.02)
            if bar.value > 0
            else x + width == pytest.approx(zero, abs=0.03)
        )
        assert percent(interval, "x1") <= percent(interval, "x2") + 0.01
        scales.append((width, abs(bar.value)))
    widest = max(scales)
    for width, value in scales:
        assert width == pytest.approx(widest[0] * value / widest[1], abs=0.05)


def test_a_chart_has_its_labels_and_numbers_as_text():
    root = ET.fromstring(bar_chart([Bar("a & b <%>", 50, None, None, "50.0")], (0, 100)))
    assert ["".join(part.itertext()) for part in root.findall(".//p")] == ["a & b <%> 50.0"]
    assert percent(root.find(".//rect"), "width") == 50 and root.findall(".//g") == []


def test_groups_of_bars_can_be_folded():
    bars = [Bar(f"m{n}", n + 1, None, None, "", group="Methods" if n < 3 else "Bounds") for n in range(4)]
    groups = ET.fromstring(bar_chart(bars)).findall("details")
    assert [group.find("summary").text for group in groups] == ["Methods", "Bounds"]
    assert [len(group.findall(".//rect")) for group in groups] == [3, 1]
    assert all("open" in group.attrib for group in groups)
    assert not ET.fromstring(bar_chart(bars[:3])).findall("details")


def test_command_writes_the_page(summary, tmp_path, capsys):
    out = tmp_path / "sub" / "report.html"
    flags = ["--out", str(out), "--published", "table2", "--repeats", "100"]
    assert main(["report", str(summary.run.path), *flags]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert "Table 2: ablation" in out.read_text(encoding="utf-8")
    assert main(["report", str(summary.run.path), *flags, "--ours", "glide"]) == 0  # which was not run
    assert main(["report", str(summary.run.path), "--max-mb", "0"]) == 2
    assert "--max-mb must be positive" in capsys.readouterr().err
