"""Job files of every kind: the same jobs from each, and what is said of mistakes."""

import csv
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hdpainter.configs import format_yaml
from hdpainter.jobs.job import JobSettings, make_job, name_key
from hdpainter.jobs.job_files import read_jobs
from hdpainter.jobs.plan import plan
from ldm.util import CONFIGS, UserError

# Everything that all formats can hold: no lone surrogates, and what YAML calls printable.
texts = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"]), max_size=30)
file_names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12)
numbers = st.floats(0, 50, allow_nan=False).map(lambda x: round(x, 3))
rows = st.fixed_dictionaries(
    {"image": file_names.map("{}.png".format), "mask": file_names.map("{}.png".format), "prompt": texts},
    optional={
        "method": st.sampled_from(["painta", "rasg"]),
        "seed": st.integers(0, 2**32 - 1),
        "steps": st.integers(1, 1000),
        "guidance_scale": numbers,
        "eta": numbers,
        "negative_prompt": texts.filter(bool),
        "size": st.integers(1, 4096),
        "superres": st.booleans(),
        "known_region": st.sampled_from(["exact", "blended"]),
    },
)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=5))
@example([{"image": "0.png", "mask": "0.png", "prompt": "0E0"}])
@example([{"image": "0.png", "mask": "0.png", "prompt": "2026-12-01"}])
def test_yaml_csv_and_jsonl_give_the_same_jobs(tmp_path_factory, jobs):
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "a.yaml").write_text(format_yaml({"jobs": jobs}), "utf-8")
    (folder / "a.jsonl").write_text("\n".join(json.dumps(job, ensure_ascii=False) for job in jobs), "utf-8")
    columns = sorted({key for job in jobs for key in job})
    with (folder / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(jobs)

    from_yaml, from_csv, from_jsonl = (read_jobs(folder / f"a.{kind}") for kind in ("yaml", "csv", "jsonl"))

    assert from_yaml.jobs == from_csv.jobs == from_jsonl.jobs
    distinct = {json.dumps({**vars(JobSettings()), **job}, sort_keys=True) for job in jobs}
    assert len(from_yaml.jobs) == len(distinct)
    assert len(from_yaml.problems) == len(jobs) - len(distinct)  # repeated jobs are reported
    if len(distinct) == len(jobs):
        for job, row in zip(from_yaml.jobs, jobs, strict=True):
            assert job.image == folder / row["image"] and job.prompt == row["prompt"]
            assert {key: getattr(job.settings, key) for key in row if hasattr(job.settings, key)} == {
                key: value for key, value in row.items() if hasattr(job.settings, key)
            }


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=8))
def test_names_are_safe_and_differ_on_every_file_system(tmp_path_factory, jobs):
    taken = {}
    for number, row in enumerate(jobs):
        job = make_job(row, tmp_path_factory.getbasetemp(), f"job {number}", taken)
        assert name_key(job.name) not in taken
        assert "/" not in job.name and "\\" not in job.name and not job.name.startswith(".")
        assert len(f"{job.name}.png".encode()) < 255
        taken[name_key(job.name)] = job.where


def test_names_come_from_any_image_and_prompt(tmp_path):
    images = ["12:30?.png", ".b.png", " c.png", "猫" * 70 + ".png", "\udcff.png", "...png"]
    taken = {}
    for image in [*images, *images]:
        row = {"image": image, "mask": "m.png", "prompt": "面" * 40, "seed": len(taken)}
        job = make_job(row, tmp_path, "here", taken)
        taken[name_key(job.name)] = "here"
        assert make_job({**row, "name": job.name}, tmp_path, "here", {}).name == job.name  # a valid one
    assert len(taken) == 12


def write(path, text):
    path.write_text(text, "utf-8")
    return path


JOB = "{image: a.png, mask: m.png, prompt: boat"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobs: [{image: a.png, promt: boat}]", "job 1: unknown key 'promt'; did you mean 'prompt'?"),
        (f"jobs: [{JOB}}}, {{guidance: 3}}]", "job 2: unknown key 'guidance'; did you mean 'guidance_scale'?"),
        (f"modell: sd2\njobs: [{JOB}}}]", "jobs.yaml: unknown key 'modell'; did you mean 'model'?"),
        (f"defaults: {{step: 3}}\njobs: [{JOB}}}]", "defaults: unknown key 'step'; did you mean 'steps'?"),
        (f"jobs: [{JOB}, prompt: kite}}]", "key 'prompt' stands twice"),
        (f"jobs: {JOB}}}", "jobs must be a list"),
        ("jobs: []", "has no jobs"),
        ("- image: a.png", "must hold a mapping with the key 'jobs'"),
        ("jobs: [{", "is not valid YAML"),
        ("model: 3\njobs: []", "model must be text, not 3"),
        (f"jobs: [{JOB}, eta: 1{'0' * 400}}}]", "jobs.yaml: line 1: a number of 401 digits"),
        ("jobs: " + "[" * 2000, "nested too deeply"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_itself_stops_it(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        read_jobs(write(tmp_path / "jobs.yaml", text))
    assert "jobs.yaml" in str(error.value)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "jobs.csv",
            "image,mask,promt\na,b,c\n",
            "jobs.csv, line 1: unknown key 'promt'; did you mean 'prompt'?",
        ),
        ("jobs.csv", "image,image\na,b\n", "a column stands twice"),
        ("jobs.csv", 'image,mask,prompt\na,b,"c', "is not valid CSV"),
        ("jobs.csv", "", "has no jobs"),
        ("jobs.jsonl", '{"image": "a"}\n{"image" "b"}', "jobs.jsonl, line 2 is not valid JSON"),
        ("jobs.jsonl", '{"image": "a", "image": "b"}', "jobs.jsonl, line 1: key 'image' stands twice"),
        ("jobs.jsonl", f'{{"seed": {"3" * 5000}}}', "jobs.jsonl, line 1 is not valid JSON"),
        ("jobs.jsonl", '{"seeds": 3}', "jobs.jsonl, line 1: unknown key 'seeds'; did you mean 'seed'?"),
        ("jobs.txt", "", "unknown kind of job file"),
    ],
)
def test_a_mistake_in_a_csv_or_jsonl_file_stops_it(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        read_jobs(write(tmp_path / name, text))


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(UserError, match=r"jobs\.yaml cannot be read: No such file"):
        read_jobs(tmp_path / "jobs.yaml")
    (tmp_path / "jobs.csv").write_bytes("prompt\nBär".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_jobs(tmp_path / "jobs.csv")


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("{mask: m.png, prompt: boat}", "image is missing"),
        ("{image: a.png, prompt: boat}", "mask is missing"),
        ("{image: a.png, mask: m.png}", "prompt is missing"),
        ("{image: '', mask: m.png, prompt: boat}", "image is empty"),
        ("{image: a.png, mask: m.png, prompt: no}", "prompt must be text, not False"),
        (f"{JOB}, steps: many}}", "steps must be a whole number, not 'many'"),
        (f"{JOB}, steps: 2.5}}", "steps must be a whole number, not 2.5"),
        (f"{JOB}, seed: -1}}", "seed is -1: give a number from 0"),
        (f"{JOB}, eta: 1{'0' * 99}}}", "eta is 1e+99: give a number from 0 to 1"),
        (f"{JOB}, superres: 1}}", "superres must be true or false, not 1"),
        (f"{JOB}, known_region: soft}}", "known_region must be one of exact, blended, not 'soft'"),
        (f"{JOB}, name: ../a}}", "'../a' is no plain file name"),
        (f"{JOB}, name: .a}}", "no plain file name"),
        (f"{JOB}, name: {'ä' * 101}}}", "longer than 200 bytes"),
        (f"{JOB}, name: Good}}", "the name 'Good' is taken by jobs.yaml, job 1"),
        (f"{JOB}, name: Summary}}", "taken by the report of the batch"),
        ("{image: good.png, mask: m.png, prompt: boat}", "the same as jobs.yaml, job 1"),
        ("boat", "a job must be a mapping"),
    ],
)
def test_a_bad_job_is_reported_and_the_others_stay(tmp_path, job, message):
    good = "{image: good.png, mask: m.png, prompt: boat, name: good}"
    file = read_jobs(write(tmp_path / "jobs.yaml", f"jobs: [{good}, {job}, {JOB}}}]"))
    assert [job.name for job in file.jobs] == ["good", "a-boat"]
    (problem,) = file.problems
    assert problem.where == "jobs.yaml, job 2" and message in problem.message
    assert "jobs.yaml, job 2" not in problem.message


def test_a_csv_row_with_an_unquoted_comma_is_reported(tmp_path):
    file = read_jobs(write(tmp_path / "j.csv", 'image,mask,prompt\na,m,a boat, red\n\nb,m,"kite, blue"\n'))
    assert [job.prompt for job in file.jobs] == ["kite, blue"]
    assert "4 cells under 3 columns" in str(file.problems[0]) and "line 2" in str(file.problems[0])


def test_a_job_goes_before_the_flags_and_they_before_the_defaults(tmp_path):
    text = f"defaults: {{steps: 1, eta: 0.1, seed: 1}}\njobs: [{JOB}}}, {JOB}, steps: 3}}]"
    first, second = read_jobs(write(tmp_path / "jobs.yaml", text), {"steps": 2, "seed": 2}).jobs
    assert (first.settings.steps, first.settings.seed, first.settings.eta) == (2, 2, 0.1)
    assert (second.settings.steps, second.settings.seed, second.settings.eta) == (3, 2, 0.1)


def test_paths_are_relative_to_the_job_file(tmp_path):
    header = "model: m.yaml\nout: results\ndefaults: {method: mine.yaml}"
    text = f"{header}\njobs: [{JOB}}}, {JOB}, method: painta}}]"
    file = read_jobs(write(tmp_path / "jobs.yaml", text))
    assert file.model == {"model": str(tmp_path / "m.yaml")} and file.out == tmp_path / "results"
    assert file.jobs[0].settings.method == str(tmp_path / "mine.yaml")
    assert file.jobs[1].settings.method == "painta"
    assert file.jobs[0].mask == tmp_path / "m.png"


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_with_masks_beside_the_images(tmp_path):
    touch(
        tmp_path,
        "b.jpg",
        "b_mask.png",
        "Ä 1.webp",
        "Ä 1_mask.webp",
        "lonely.png",
        "stray_mask.png",
        "notes.md",
    )
    write(tmp_path / "b.txt", "\ufeffa red kite\n")
    file = read_jobs(tmp_path, {"prompt": "boat"})
    assert {(job.name, job.image.name, job.mask.name, job.prompt) for job in file.jobs} == {
        ("b", "b.jpg", "b_mask.png", "a red kite"),
        ("Ä 1", "Ä 1.webp", "Ä 1_mask.webp", "boat"),
    }
    assert {str(problem) for problem in file.problems} == {
        "lonely.png: no mask; it should be called lonely_mask.png",
        "stray_mask.png: this mask has no image of its name",
    }


def test_a_folder_with_images_and_masks_apart(tmp_path):
    touch(tmp_path, "images/b.jpg", "masks/b.png", "images/a_mask.jpg", "masks/a_mask_mask.png")
    write(tmp_path / "prompts.txt", "first\n\n")
    file = read_jobs(tmp_path)
    assert not file.problems
    assert [(job.image.name, job.mask.name, job.prompt) for job in file.jobs] == [
        ("a_mask.jpg", "a_mask_mask.png", "first"),
        ("b.jpg", "b.png", ""),
    ]


def test_a_folder_with_a_table_of_prompts(tmp_path):
    touch(tmp_path, "a.png", "a_mask.png", "b.png", "b_mask.png", "c.png", "c_mask.png", "round.png")
    table = "image,prompt,seed,mask\na.png,boat,3,\na,kite,,round.png\nb.png,,,\nd.png,hat,,\n"
    write(tmp_path / "prompts.csv", table)
    (tmp_path / "round.png").rename(tmp_path / "round.psd")
    file = read_jobs(tmp_path)
    assert [(job.name, job.prompt, job.settings.seed, job.mask.name) for job in file.jobs] == [
        ("a-boat", "boat", 3, "a_mask.png"),
        ("a-kite", "kite", 0, "round.png"),
        ("b", "", 0, "b_mask.png"),
    ]
    assert [str(problem) for problem in file.problems] == [
        "c.png: prompt is missing",
        "prompts.csv, line 5: there is no image 'd' in " + tmp_path.name,
    ]


def test_an_ambiguous_folder_is_refused(tmp_path):
    touch(tmp_path, "a.png", "a.jpg", "a_mask.png")
    with pytest.raises(UserError, match="same name"):
        read_jobs(tmp_path)
    (tmp_path / "a.jpg").unlink()
    write(tmp_path / "prompts.txt", "one\ntwo\n")
    with pytest.raises(UserError, match="2 lines for 1 images"):
        read_jobs(tmp_path)
    write(tmp_path / "prompts.csv", "image,prompt\n")
    with pytest.raises(UserError, match="keep one"):
        read_jobs(tmp_path)


@pytest.mark.parametrize(("source", "jobs"), [("example.yaml", 4), ("methods.yaml", 6), ("pictures", 4)])
def test_the_examples_that_ship_are_without_mistakes(tmp_path, source, jobs):
    file = read_jobs(CONFIGS / "inference" / source)
    tasks, problems = plan(file, tmp_path, {"name": "mini", "size": 256, "multiple": 64}, "hd-painter")
    assert len(tasks) == jobs and not problems
