"""What a user may set is one table: every door reads it, and each judges values alike."""

import csv
import dataclasses
import json
import subprocess
import sys
import textwrap

import pytest
import yaml

from eval.config import expand
from hdpainter import flags
from hdpainter.cli import main, parser
from hdpainter.jobs.job import JOB_KEYS, JobSettings
from hdpainter.jobs.job_files import read_jobs
from hdpainter.settings import Adjustments, Method, method_names
from hdpainter.values import at, kinds, parse, places, required
from hdpainter.web.limits import Limits
from hdpainter.web.menu import FORM, Menu
from ldm.util import CONFIGS, UserError

FIELDS = {field.name: field.metadata for field in dataclasses.fields(Adjustments)}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_checked_as_its_place_in_the_method(name):
    assert required(kinds(Adjustments)[name]) == required(places(Method)[FIELDS[name]["place"]])


def test_every_door_reads_the_table():
    assert set(FIELDS) < set(kinds(JobSettings)) == set(flags.SETTINGS) < set(JOB_KEYS)
    for command in (["inpaint", "--image=a", "--mask=b", "--prompt=c", "--out=d"], ["batch", "jobs.yaml"]):
        assert set(flags.SETTINGS) < set(vars(parser().parse_args(command)))
    explained = vars(parser().parse_args(["explain", "--image=a", "--mask=b", "--prompt=c", "--out=d"]))
    assert {name for name in FIELDS if name in explained} == {
        name for name, about in FIELDS.items() if about["group"] not in ("output", "stage 2")
    }
    assert set(FORM) - {"prompt", "model"} < set(kinds(JobSettings))
    (entry,) = expand("hd-painter", {}, "mini")
    assert set(FIELDS) < set(kinds(type(entry.how)))


ADDED = """
    import dataclasses, sys
    from pathlib import Path
    import hdpainter.settings as settings

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Adjustments(settings.Adjustments):
        shift: settings.places(settings.Method)["rasg.logit_shift"] | None = settings.setting(
            "sampler", "subtracted from the scores", "rasg.logit_shift"
        )

    settings.Adjustments = Adjustments

    from eval.config import expand
    from hdpainter.cli import main
    from hdpainter.jobs.job import JobSettings
    from hdpainter.jobs.job_files import read_jobs
    from hdpainter.web.recipes import Recipe, as_command, as_yaml

    for kind in ("csv", "jsonl", "yaml"):
        (job,) = read_jobs(f"jobs.{kind}").jobs
        assert job.settings.resolve().rasg.logit_shift == 0.5, kind
    recipe = Recipe("mini", "boat", JobSettings(method="rasg", shift=0.5, superres=False))
    assert "--shift 0.5" in as_command("a.png", "m.png", [recipe])
    Path("again.yaml").write_text(as_yaml("a.png", "m.png", [recipe]))
    assert read_jobs("again.yaml").jobs[0].settings == recipe.settings
    entries = expand("rasg", {"shift": [0.5, 1]}, "mini")
    assert [entry.how.resolved().rasg.logit_shift for entry in entries] == [0.5, 1.0]
    main(["inpaint", "--help"])
"""


def test_adding_a_setting_is_one_line(tmp_path):
    """A field more in the table, and nothing else, is a flag, a key of files and of grids, and in recipes."""
    job = {"image": "a.png", "mask": "m.png", "prompt": "boat", "method": "rasg", "shift": 0.5}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(job))
    (tmp_path / "jobs.yaml").write_text(yaml.safe_dump({"jobs": [job]}))
    with (tmp_path / "jobs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([job, job.values()])
    code = textwrap.dedent(ADDED)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sampler = done.stdout.partition("sampler:")[2].partition("stage 2:")[0]
    assert "--shift SHIFT" in sampler and "subtracted from the scores" in sampler


WRONG = [
    ("steps", 0, "steps is 0: give a number from 1 to 1000"),
    ("steps", 2.5, "steps must be a whole number, not "),
    ("guidance_scale", float("nan"), "guidance_scale is nan: give a number up to 1000"),
    ("eta", -1, "eta is -1.0: give a number from 0 to 1"),
    ("crop_margin", -1, "crop_margin is -1: give a number of pixels from 0 to 32768"),
    ("tile", 300, "tile is 300: give a multiple of 64 from 256 to 32768"),
    ("known_region", "soft", "known_region must be one of exact, blended, "),
    ("seed", -1, "seed is -1: give a number from 0 to 4294967295"),
    ("size", 0, "size is 0: give a number from 1 to 32768"),
]
JOB = {"image": "a.png", "mask": "m.png", "prompt": "boat"}


def write_jobs(folder, **content):
    (folder / "jobs.yaml").write_text(yaml.safe_dump({"jobs": [JOB, {**JOB, "seed": 3}], **content}))
    return str(folder / "jobs.yaml")


def flag(key, value):
    return f"--{key.replace('_', '-')}={value}"


COMMANDS = {
    "inpaint": lambda folder, key, value: [
        "inpaint",
        "--image=a",
        "--mask=b",
        "--prompt=c",
        "--out=d.png",
        flag(key, value),
    ],
    "batch": lambda folder, key, value: ["batch", write_jobs(folder), flag(key, value)],
    "defaults": lambda folder, key, value: ["batch", write_jobs(folder, defaults={key: value})],
}


@pytest.mark.parametrize("door", COMMANDS)
@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_a_command_refuses_a_wrong_value_in_one_line(tmp_path, capsys, door, key, value, message):
    assert main(COMMANDS[door](tmp_path, key, value), load=pytest.fail, identify=pytest.fail) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize("kind", ["yaml", "jsonl", "csv"])
@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_a_job_file_reports_a_wrong_value(tmp_path, kind, key, value, message):
    job = {**JOB, key: value}
    cells = [",".join(map(str, row)) for row in (job, job.values())]
    texts = {"yaml": yaml.safe_dump({"jobs": [job]}), "jsonl": json.dumps(job), "csv": "\n".join(cells)}
    source = tmp_path / f"jobs.{kind}"
    source.write_text(texts[kind])
    (problem,) = read_jobs(source).problems
    assert message in problem.message and "\n" not in problem.message


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_python_the_page_and_the_benchmark_refuse_a_wrong_value(key, value, message):
    doors = [lambda: JobSettings(**{key: value})]
    if (key, value) != (
        "size",
        0,
    ) and key != "known_region":  # the page's way to say "the model's", and its promise
        doors += [lambda: Menu({"mini": True}, Limits()).recipe("boat", "mini", **{key: value})]
    if key in FIELDS:
        place = FIELDS[key]["place"]
        doors += [
            lambda: Adjustments(**{key: value}),
            lambda: Method.load("rasg").override({place: value}),
            lambda: Method.from_values({"name": "x", **nested(place, value)}),
            lambda: expand("rasg", {key: [value]}, "mini"),
        ]
    for door in doors:
        with pytest.raises(UserError) as error:
            door()
        assert message.removeprefix(key) in str(error.value) and "\n" not in str(error.value)


def nested(place, value):
    for name in reversed(place.split(".")):
        value = {name: value}
    return value


def test_what_does_not_fit_the_method_is_told_with_its_name():
    with pytest.raises(
        UserError, match=r"^method hd-painter-printed: eta is 1\.5: give a number from 0 to 1; the paper has"
    ):
        Method.load("hd-painter-printed").adjusted(Adjustments(eta=1.5))
    assert Method.load("hd-painter-release").adjusted(Adjustments(eta=1.5)).sampler.eta == 1.5
    with pytest.raises(UserError, match=r"^method painta has no 'rasg', so rasg\.scale cannot be set$"):
        Method.load("painta").override({"rasg.scale": 2})
    with pytest.raises(
        UserError, match=r"^method rasg: unknown key 'rasg\.sclae'; did you mean 'rasg\.scale'"
    ):
        Method.load("rasg").override({"rasg.sclae": 2})
    with pytest.raises(UserError, match=r"tile cannot be set: results are those of stage 1"):
        expand("rasg", {"tile": 256}, "mini")


def test_every_value_of_a_method_can_be_set_by_its_place_and_as_text():
    full = Method.load("hd-painter-release")
    leaves = [place for place, kind in places(Method).items() if not dataclasses.is_dataclass(required(kind))]
    assert {"rasg.sigma", "painta.smoothing", "masks.levels", "superres.tile", "known_region"} < set(leaves)
    for place in leaves:
        value = at(full, place)
        if value is not None:
            assert full.override({place: parse(places(Method)[place], str(value))}) == full
    changed = full.override({"rasg.sigma": parse(places(Method)["rasg.sigma"], "cumulative")})
    assert (changed.rasg.sigma, full.rasg.sigma) == ("cumulative", "per_step")


def test_the_documents_name_every_key_of_a_job():
    text = (CONFIGS.parent / "docs" / "batch.md").read_text("utf-8")
    assert [key for key in JOB_KEYS if f"`{key}`" not in text] == []


def test_nothing_set_changes_nothing():
    for name in method_names():
        assert Method.load(name).adjusted(Adjustments()) == Method.load(name)
    for name in method_names("ldm"):
        method = Method.load(name)
        assert method.override({"painta": None, "rasg": None}).painta is None
