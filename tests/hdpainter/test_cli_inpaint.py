"""``hdpainter inpaint`` beyond a single picture: samples to choose from, results made again, other files."""

import json

import numpy as np
import pytest
from PIL import Image

from hdpainter.cli import main
from hdpainter.images import save_png
from hdpainter.jobs.job_files import read_jobs
from hdpainter.jobs.sheet import contact_sheet
from hdpainter.mini.world.objects import CATEGORIES
from hdpainter.models.registry import PipelineSpec
from hdpainter.prompts import has_weights, names_any, words_cut
from hdpainter.settings import Method
from ldm.util import UserError
from tests.hdpainter.fakes import MODEL, FakePainter, make_mask, make_picture

INPAINT = ("inpaint", "--image", "a.png", "--mask", "m.png", "--prompt", "a red kite")


def run(*words, model=MODEL, painter=None):
    words = [str(word) for word in words]
    return main(words, load=lambda *_: painter or FakePainter(), identify=lambda *_: model)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder, the current one, with a picture and a mask."""
    monkeypatch.chdir(tmp_path)
    make_picture(tmp_path / "a.png")
    make_mask(tmp_path / "m.png")
    return tmp_path


def record(path):
    return json.loads(path.with_suffix(".json").read_text("utf-8"))


def test_what_begins_is_told_before_the_model_loads(here, capsys):
    def load(*_):
        assert capsys.readouterr().err == "the mask fills 25% of the picture\nloading mini\n"
        return FakePainter()

    assert main([*INPAINT, "--out", "o.png"], load=load, identify=lambda *_: MODEL) == 0


def test_samples_have_seeds_from_the_seed_on_and_a_contact_sheet(here, capsys):
    assert run(*INPAINT, "--seed", 7, "--num-samples", 3, "--out", "o.png") == 0
    assert [record(here / f"o-{n}.png")["inputs"]["seed"] for n in (1, 2, 3)] == [7, 8, 9]
    with Image.open(here / "o-sheet.png") as sheet:
        assert sheet.width > 2 * 24 and sheet.height > 2 * 16  # two rows of two
    assert "o-sheet.png and 3 pictures written after" in capsys.readouterr().out
    assert run(*INPAINT, "--num-samples", 2, "--out", "o.png") == 2
    assert "o-1.png exists; give another --out" in capsys.readouterr().err
    assert run(*INPAINT, "--num-samples", 0, "--out", "n.png") == 2
    assert "num_samples is 0: give a number from 1 to 1000" in capsys.readouterr().err


def test_samples_in_job_files(here):
    jobs = [
        {"name": "boat", "image": "a.png", "mask": "m.png", "prompt": "boat", "seed": 4, "num_samples": 2}
    ]
    jobs.append({"image": "a.png", "mask": "m.png", "prompt": "hat", "num_samples": 2})
    (here / "jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)))
    made = [(job.name, job.settings.seed) for job in read_jobs(here / "jobs.jsonl").jobs]
    assert made == [("boat-1", 4), ("boat-2", 5), ("a-hat", 0), ("a-hat-2", 1)]


def test_a_contact_sheet_shows_every_picture():
    colours = ["red", "lime", "blue", "black", "yellow"]
    sheet = np.array(contact_sheet([Image.new("RGB", (800, 600), c) for c in colours], ["a"] * 5))
    assert sheet.shape[1] == 12 + 3 * (384 + 12) and sheet.shape[0] == 12 + 2 * (288 + 26 + 12)
    found = {tuple(map(int, pixel)) for pixel in np.unique(sheet.reshape(-1, 3), axis=0)}
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 0)} <= found


def test_out_may_be_a_folder(here):
    for _ in range(2):
        assert run(*INPAINT, "--out", "results") == 0
    (here / "dotted.folder").mkdir()
    assert run(*INPAINT, "--num-samples", 2, "--out", "dotted.folder") == 0
    names = sorted(path.name for path in (here / "results").iterdir())
    assert names == ["a-a-red-kite-2.json", "a-a-red-kite-2.png", "a-a-red-kite.json", "a-a-red-kite.png"]
    assert (here / "dotted.folder" / "a-a-red-kite-sheet.png").is_file()


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_files_say_that_they_are(here, capsys, suffix):
    assert run(*INPAINT, "--out", f"o{suffix}") == 0
    assert f"; {suffix} is lossy: pixels outside the mask are no longer exact" in capsys.readouterr().out
    with Image.open(here / f"o{suffix}") as image:
        assert image.size == (24, 16) and image.format == ("WEBP" if suffix == ".webp" else "JPEG")
    assert record(here / f"o{suffix}")["output"]["file"] == f"o{suffix}"


def test_a_result_of_a_model_without_a_name_wants_it_told(here, capsys):
    assert run(*INPAINT, "--out", "o.png") == 0
    content = record(here / "o.png")
    content["metadata"]["models"] = {"model": "mini+style"}
    (here / "o.json").write_text(json.dumps(content))
    assert run("inpaint", "--from", "o.json", "--out", "p.png") == 2
    assert (
        "o.json is by the model mini+style, which has no name here: give --model" in capsys.readouterr().err
    )
    assert run("inpaint", "--from", "o.json", "--model", "mini", "--out", "p.png") == 0


@pytest.mark.parametrize("given", ["one/o.png", "one/o.json"])
def test_a_result_is_made_again_from_anywhere(here, capsys, monkeypatch, given):
    words = ("--seed", 7, "--steps", 20, "--no-superres", "--grow", 2, "--set", "rasg.sigma=per_step")
    assert run(*INPAINT, "--out", "one/o.png", "--method", "hd-painter", *words) == 0
    capsys.readouterr()
    (here / "two").mkdir()
    monkeypatch.chdir(here / "two")
    assert run("inpaint", "--from", f"../{given}", "--model", "mini", "--out", "o.png") == 0
    assert f"all is as ../{given} was made" in capsys.readouterr().err
    assert (here / "one" / "o.png").read_bytes() != b"" and record(here / "two" / "o.png")["hash"] == record(
        here / "one" / "o.png"
    )["hash"]


def test_what_differs_in_a_result_made_again_is_told(here, capsys):
    assert run(*INPAINT, "--out", "o.png", "--seed", 7) == 0
    capsys.readouterr()
    make_picture(here / "a.png", seed=5)
    other = {**MODEL, "inpainting": {"sha256": "3"}}
    words = ("--from", "o.png", "--steps", "20", "--model", "mini", "--out", "p.png")
    assert run("inpaint", *words, model=other) == 0
    said = capsys.readouterr().err
    assert "differs from o.png: image has other contents, " in said
    assert 'sha256 "1" -> "3"' in said and "steps 50 -> 20" in said and "seed" not in said


def test_what_is_no_result_is_one_line(here, capsys):
    save_png(Image.new("RGB", (8, 8)), here / "api.png", {"method": {"name": "x"}, "prompt": "boat"})
    (here / "five.json").write_text("5")
    for path, message in (
        ("a.png", "a.png does not say how it was made"),
        ("five.json", "five.json does not say how it was made"),
        ("none.png", "result none.png is not there"),
        ("api.png", "says with which settings it was made but not of which picture: give --method api.png"),
    ):
        assert run("inpaint", "--from", path, "--out", "p.png") == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1


def test_a_method_may_be_that_of_a_result(here):
    method = Method.load("painta").override({"sampler.steps": 7})
    save_png(Image.new("RGB", (8, 8)), here / "api.png", {"method": json.loads(json.dumps(_plain(method)))})
    assert Method.load(here / "api.png") == method
    assert run(*INPAINT, "--method", "api.png", "--eta", "0.1", "--out", "o.png") == 0
    made = record(here / "o.png")["inputs"]["method"]
    assert made["sampler"]["steps"] == 7 and made["sampler"]["eta"] == 0.1


def _plain(method):
    from dataclasses import asdict

    return asdict(method)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("rasg.sigma=per_step", ""),
        ("painta.smoothing=null", ""),
        ("prompts.positive=sharp, bright,sampler.steps=3", ""),
        ("rasg=null", ""),
        ("rasg.sigma=steps", "rasg.sigma must be one of cumulative, per_step, not 'steps'"),
        ("rasg.sgima=per_step", "unknown key 'rasg.sgima'; did you mean 'rasg.sigma'?"),
        ("rasg.sigma", "set 'rasg.sigma': give a place and its value, such as rasg.sigma=per_step"),
        ("sampler.steps=0", "sampler.steps is 0: give a number from 1 to 1000"),
        ("rasg=5", "rasg must be a mapping"),
    ],
)
def test_any_value_of_a_method_is_set_by_its_place(here, capsys, given, message):
    words = ("--method", "hd-painter", "--set", given, "--set", "sampler.eta=0.5", "--out", "o.png")
    assert run(*INPAINT, *words) == (2 if message else 0)
    assert message in capsys.readouterr().err
    if not message:
        method = record(here / "o.png")["inputs"]["method"]
        assert method["sampler"]["eta"] == 0.5
        expected = {
            "rasg.sigma=per_step": lambda: method["rasg"]["sigma"] == "per_step",
            "painta.smoothing=null": lambda: method["painta"]["smoothing"] is None,
            "rasg=null": lambda: method["rasg"] is None,
        }.get(
            given, lambda: (method["prompts"]["positive"], method["sampler"]["steps"]) == ("sharp, bright", 3)
        )
        assert expected()


def test_a_picture_is_outpainted_without_a_mask(here, capsys):
    assert (
        run("inpaint", "--image", "a.png", "--prompt", "sea", "--outpaint", "left=8", "--out", "o.png") == 0
    )
    assert Image.open(here / "o.png").size == (32, 16)
    assert record(here / "o.png")["files"]["mask"] is None
    (here / "m.png").rename(here / "a_mask.png")
    make_picture(here / "b.png")
    assert run("batch", ".", "--prompt", "sea", "--outpaint", "left=8", "--out", "results") == 0
    assert Image.open(here / "results" / "b.png").size == (32, 16)
    assert run("inpaint", "--image", "a.png", "--prompt", "sea", "--out", "p.png") == 2
    assert "mask is missing" in capsys.readouterr().err


@pytest.mark.parametrize("value", [40, "alpha"])
def test_the_size_of_the_mask_is_found_by_its_header(here, capsys, value):
    make_mask(here / "m.png", (12, 8))
    assert run("batch", _jobs(here), "--dry-run") == 1
    assert "12 x 8 pixels but the image is 24 x 16" in capsys.readouterr().out
    assert run("batch", _jobs(here, resize_mask=True), "--dry-run") == 0


def _jobs(folder, **settings):
    job = {"image": "a.png", "mask": "m.png", "prompt": "boat", **settings}
    (folder / "jobs.jsonl").write_text(json.dumps(job))
    return folder / "jobs.jsonl"


def test_prompts_of_other_programs_are_read_as_words_with_one_warning(here, capsys):
    for text in ("(red clock:1.3)", "a [clock:0.5]", "((clock))", "clock <lora:x:1>", "( clock : .8 )"):
        assert has_weights(text), text
    for text in ("a clock (red)", "ratio 16:9", "a clock: red", "[clock]", "<3"):
        assert not has_weights(text), text
    words = ("inpaint", "--image", "a.png", "--mask", "m.png", "--prompt", "(red clock:1.3), <lora:x:1>")
    assert run(*words, "--out", "o.png") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    (line,) = said
    assert line.endswith(
        "weights such as (word:1.3) and <lora:...> are read as words here (--lora adds a LoRA)"
    )


def test_the_miniature_says_what_it_knows_where_the_prompt_names_nothing_of_it(here, capsys):
    known = PipelineSpec.load("mini").knows
    assert known == tuple(category.name for category in CATEGORIES)
    assert names_any("Two red Clocks", known) and names_any("a teddy bear.", known)
    assert not names_any("a clockwork carpet", known)
    for prompt, warned in (("a dragon", True), ("a red kite", False), ("", False)):
        words = ("inpaint", "--image", "a.png", "--mask", "m.png", "--prompt", prompt, "--out", "o.png")
        assert run(*words, "--overwrite") == 0
        said = capsys.readouterr().err
        assert ("mini knows nothing that is named there; it knows car, airplane, bus" in said) == warned
    jobs = "".join(
        json.dumps({"image": "a.png", "mask": "m.png", "prompt": f"dragon {n}"}) + "\n" for n in range(3)
    )
    (here / "jobs.jsonl").write_text(jobs)
    assert run("batch", "jobs.jsonl", "--dry-run") == 0
    assert "prompt 'dragon 0' and 2 more: mini knows nothing" in capsys.readouterr().err


def test_words_that_are_cut_are_counted_as_words():
    assert words_cut("word " * 75) == 0 and words_cut("word " * 76) == 1
    assert words_cut("antidisestablishmentarianism, " * 20) == 20 - words_kept(
        "antidisestablishmentarianism,"
    )
    assert words_cut("") == 0


def words_kept(word):
    from hdpainter.prompts import default_tokenizer

    return 75 // len(default_tokenizer().encode(word))


def test_what_begins_with_a_dash_is_a_prompt_too(here):
    assert run("inpaint", "--image", "a.png", "--mask", "m.png", "--prompt", "-clock", "--out", "o.png") == 0
    assert record(here / "o.png")["inputs"]["prompt"] == "-clock"


def test_a_mistaken_name_is_guessed(here, capsys):
    for words, message in (
        (("--method", "hdpainter"), "unknown method 'hdpainter'; did you mean 'hd-painter'? known: "),
        (("--model", "sd-2"), "unknown model 'sd-2'; did you mean 'sd2'? known: "),
        (
            ("--guidance", "3"),
            "unknown flag --guidance; did you mean '--guidance-scale'? (see hdpainter inpaint",
        ),
        (("--frobnicate", "3"), "unrecognized arguments: --frobnicate 3"),
        (("--image", "--mask", "m.png"), "argument --image: expected one argument"),
    ):
        assert run(*INPAINT, *words, "--out", "o.png") == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="unknown model 'x'; known: "):
        PipelineSpec.load("x")


def test_a_warning_is_told_once(here, capsys):
    with Image.open("a.png") as picture:
        picture.putalpha(200)
        picture.save("a.png")
    assert run(*INPAINT, "--out", "o.png") == 0
    told = capsys.readouterr().err
    assert told.count("has transparent parts") == 1 and Image.open("o.png").mode == "RGB"
