"""What the page copies is what the command line and a batch file understand."""

import shlex

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hdpainter import flags
from hdpainter.cli import parser
from hdpainter.jobs.job import JobSettings
from hdpainter.jobs.job_files import read_jobs
from hdpainter.models.choice import ModelChoice
from hdpainter.settings import method_names
from hdpainter.web.recipes import Recipe, as_command, as_yaml

TEXT = st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=30).map(str.strip).filter(bool)
NAMES = TEXT.filter(lambda name: "/" not in name).map("{}.png".format)
SETTINGS = st.builds(
    JobSettings,
    method=st.sampled_from(method_names("ldm")),
    seed=st.integers(0, 2**32 - 2),
    steps=st.none() | st.integers(1, 200),
    guidance_scale=st.none() | st.floats(1, 20).map(lambda value: round(value, 2)),
    eta=st.none() | st.floats(0, 1).map(lambda value: round(value, 2)),
    negative_prompt=st.none() | TEXT,
    size=st.none() | st.integers(64, 2048),
    superres=st.booleans(),
    known_region=st.none() | st.sampled_from(["exact", "blended"]),
)


@examples(max_examples=40, deadline=None)
@given(TEXT, NAMES, SETTINGS)
def test_the_command_makes_the_same_picture(prompt, image, settings):
    recipe = Recipe("mini", prompt, settings)
    words = shlex.split(as_command(image, "mask.png", [recipe]))
    assert words[:2] == ["hdpainter", "inpaint"]
    args = parser().parse_args(words[1:])
    assert (args.model, args.image, args.mask, args.prompt) == ("mini", image, "mask.png", prompt)
    given = {key: value for key, value in flags.given(args).items() if key in flags.SETTINGS}
    assert Recipe("mini", prompt, JobSettings(**given)).method == recipe.method
    assert (given["seed"], given.get("superres", True)) == (settings.seed, settings.superres)
    assert args.out.suffix == ".png"


@examples(max_examples=40, deadline=None)
@given(TEXT, NAMES, SETTINGS)
def test_the_yaml_makes_the_same_picture(tmp_path_factory, prompt, image, settings):
    first = Recipe("mini", prompt, settings)
    recipes = [first, first.at(seed=settings.seed + 1)]
    path = tmp_path_factory.mktemp("yaml") / "jobs.yaml"
    path.write_text(as_yaml(image, "mask.png", recipes), encoding="utf-8")
    file = read_jobs(path)
    assert file.model == {"model": "mini"} and not file.problems
    for job, recipe in zip(file.jobs, recipes, strict=True):
        assert (job.image.name, job.mask.name, job.prompt) == (image, "mask.png", recipe.prompt)
        assert Recipe("mini", job.prompt, job.settings).method == recipe.method
        assert job.settings.seed == recipe.settings.seed and job.settings.superres == settings.superres


def test_only_what_differs_is_told():
    plain = Recipe(
        "mini", "a boat", JobSettings(method="hd-painter", steps=50, guidance_scale=7.5, eta=0.25, seed=3)
    )
    assert as_command("photo.jpg", "mask.png", [plain]) == (
        "hdpainter inpaint --model mini --image photo.jpg --mask mask.png --prompt 'a boat' "
        "--method hd-painter --seed 3 --out photo-hd-painter-3.png"
    )


def test_a_model_with_its_own_weights_is_told_by_them(tmp_path):
    chosen = {
        "model": "mini",
        "checkpoint": "mine.ckpt",
        "ema": True,
        "lora": ("a.safetensors", "b.safetensors:0.5"),
    }
    recipe = Recipe("mine+a+b", "boat", JobSettings(method="painta"), chosen)
    words = shlex.split(as_command("photo.png", "mask.png", [recipe]))
    assert flags.model_choice(parser().parse_args(words[1:])) == ModelChoice(**chosen)
    (tmp_path / "jobs.yaml").write_text(as_yaml("photo.png", "mask.png", [recipe]))
    assert ModelChoice(**read_jobs(tmp_path / "jobs.yaml").model) == ModelChoice(**chosen)


@pytest.mark.parametrize("name", ["my photo.png", "-.png", "ünï cödé.jpeg"])
def test_names_of_files_survive_the_shell(name):
    words = shlex.split(
        as_command(name, "mask.png", [Recipe("mini", "-- a 'boat'", JobSettings(method="painta"))])
    )
    args = parser().parse_args(words[1:])
    assert (args.image, args.prompt) == (name, "-- a 'boat'")
