"""Batches: what is done and skipped, what an error or an interruption leaves behind, and who owns a picture."""

import io
import json
import os
import random
import shutil
import signal
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hdpainter.jobs.batch import run
from hdpainter.jobs.job_files import read_jobs
from ldm.util import UserError
from tests.hdpainter.fakes import MODEL, FakePainter, make_mask, make_picture

PROMPTS = ["boat", "clock", "kite", "", "ein Bär 🐻"]


class Folder:
    """A job file with its pictures, and an output folder."""

    def __init__(self, path, jobs=None):
        self.path, self.out, self.source = path, path / "out", path / "jobs.jsonl"
        make_picture(path / "a.png")
        make_mask(path / "m.png")
        self.write(
            jobs or [{"name": f"job{number}", "prompt": prompt} for number, prompt in enumerate(PROMPTS)]
        )

    def write(self, jobs):
        lines = (json.dumps({"image": "a.png", "mask": "m.png", **job}) for job in jobs)
        self.source.write_text("\n".join(lines), "utf-8")

    def run(self, painter=None, **options):
        """Run the batch; returns (summary, painter, what it said)."""
        painter, said = painter or FakePainter(), io.StringIO()
        options = {"model": MODEL, **options}
        model = options.pop("model")
        summary = run(
            read_jobs(self.source), self.out, model, "hd-painter", lambda _: painter, stream=said, **options
        )
        return summary, painter, said.getvalue()

    def files(self):
        """The visible files of the output folder and their contents."""
        return {path.name: path.read_bytes() for path in self.out.iterdir() if path.is_file()}

    def pixels(self):
        return {path.stem: np.array(Image.open(path)).tolist() for path in self.out.glob("*.png")}


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def in_child(function):
    """Run `function` in a forked process; returns its id."""
    child = os.fork()
    if child == 0:
        try:
            function()
            os._exit(0)
        except KeyboardInterrupt:
            os._exit(130)
        finally:
            os._exit(1)
    return child


def exit_code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_every_job_gets_a_picture_and_a_record_of_what_made_it(folder):
    summary, _, said = folder.run()
    assert summary.exit_code == 0 and len(summary.done) == 5
    picture = Image.open(folder.out / "job4.png")
    record = json.loads((folder.out / "job4.json").read_text("utf-8"))
    assert record["inputs"]["prompt"] == PROMPTS[4] and record["inputs"]["seed"] == 0
    assert record["inputs"]["method"]["sampler"]["eta"] == 0.25
    assert record["inputs"]["model"] == MODEL
    assert record["files"] == {"image": "../a.png", "mask": "../m.png"}
    assert record["metadata"] == {"mask_share": 0.25, "mask_parts": 1, "seed": 0, "seconds": 0.0}
    assert (record["output"]["width"], record["output"]["height"]) == picture.size
    assert json.loads(picture.info["hdpainter"]) == {k: v for k, v in record.items() if k != "output"}
    assert set(folder.files()) == {"summary.json"} | {
        f"job{n}.{kind}" for n in range(5) for kind in ("png", "json")
    }
    assert "[5/5] job4: done" in said and "5 done, 0 done before, 0 failed" in said


def test_what_is_done_is_not_done_again_and_the_model_not_loaded(folder):
    folder.run()
    before = folder.files()
    del before["summary.json"]
    file = read_jobs(folder.source)
    summary = run(
        file, folder.out, MODEL, "hd-painter", lambda _: pytest.fail("loaded the model"), stream=io.StringIO()
    )
    after = folder.files()
    del after["summary.json"]
    assert after == before
    assert summary.exit_code == 0 and not summary.done and len(summary.skipped) == 5


@settings(max_examples=8, deadline=None)
@given(
    jobs=st.lists(
        st.fixed_dictionaries(
            {"prompt": st.sampled_from(PROMPTS), "seed": st.integers(0, 2), "steps": st.sampled_from([2, 3])}
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda job: tuple(sorted(job.items())),
    ),
    batch_size=st.integers(1, 5),
)
def test_batches_hold_equal_settings_and_change_no_picture(tmp_path_factory, jobs, batch_size):
    singly, together = (Folder(tmp_path_factory.mktemp("batch"), jobs) for _ in range(2))
    singly.run()
    _, painter, _ = together.run(batch_size=batch_size)
    assert together.pixels() == singly.pixels() and len(singly.pixels()) == len(jobs)
    sizes = [len(prompts) for prompts in painter.calls]
    of_steps = [sum(job["steps"] == steps for job in jobs) for steps in (2, 3)]
    assert max(sizes) <= batch_size
    assert len(sizes) == sum(-(-count // batch_size) for count in of_steps)  # as few batches as possible


def test_only_images_of_one_size_at_stage_1_share_a_batch(tmp_path):
    jobs = [{"prompt": "small", "image": "s.png"}, {"prompt": "wide", "image": "w.png"}]
    jobs += [{"prompt": "large", "image": "l.png"}, {"prompt": "sideways", "image": "phone.jpg"}]
    for name, size in (("s", (24, 16)), ("w", (48, 16)), ("l", (48, 32))):
        make_picture(tmp_path / f"{name}.png", size)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.new("RGB", (32, 48)).save(tmp_path / "phone.jpg", exif=exif)
    for job, size in zip(jobs, ((24, 16), (48, 16), (48, 32), (48, 32)), strict=True):
        job["mask"] = make_mask(tmp_path / f"{job['prompt']}_mask.png", size).name
    _, painter, _ = Folder(tmp_path, jobs).run(batch_size=4)
    assert painter.calls == [["small", "large", "sideways"], ["wide"]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 20}, "job0: making it again: steps 50 -> 20"),
        ({"prompt": "ship"}, 'prompt "boat" -> "ship"'),
        ({"method": "painta"}, 'name "hd-painter" -> "painta"'),
        ({"image": "b.png"}, "image has other contents"),
    ],
)
def test_a_changed_job_is_made_again_and_says_why(tmp_path, change, said):
    job = {"name": "job0", "prompt": "boat"}
    folder = Folder(tmp_path, [job])
    make_picture(tmp_path / "b.png", seed=1)
    folder.run()
    before = folder.pixels()
    folder.write([{**job, **change}])
    summary, _, output = folder.run()
    assert summary.done == ["job0"] and said in output
    assert folder.pixels() != before
    assert folder.run()[0].skipped == ["job0"]


def test_values_that_the_method_has_anyway_change_nothing(tmp_path):
    folder = Folder(tmp_path, [{"prompt": "boat"}])
    folder.run()
    folder.write(
        [{"prompt": "boat", "steps": 50, "eta": 0.25, "size": MODEL["size"], "known_region": "exact"}]
    )
    assert folder.run()[0].skipped == ["a-boat"]


def test_another_model_makes_everything_again_but_other_file_names_do_not(folder):
    folder.run()
    summary, _, said = folder.run(model={**MODEL, "inpainting": {"sha256": "3"}})
    assert len(summary.done) == 5 and 'sha256 "1" -> "3"' in said
    folder.run()
    (folder.path / "a.png").rename(folder.path / "b.png")
    folder.write(
        [{"name": f"job{n}", "prompt": prompt, "image": "b.png"} for n, prompt in enumerate(PROMPTS)]
    )
    assert len(folder.run()[0].skipped) == 5


def test_the_upscaler_counts_only_for_jobs_that_use_it(tmp_path):
    folder = Folder(
        tmp_path, [{"name": "low", "prompt": "boat", "superres": False}, {"name": "high", "prompt": "boat"}]
    )
    folder.run()
    summary, _, _ = folder.run(model={**MODEL, "upscaler": {"sha256": "4"}})
    assert summary.skipped == ["low"] and summary.done == ["high"]


def test_bad_jobs_are_reported_before_the_model_loads_and_do_not_stop_the_others(folder):
    (folder.path / "text.png").write_text("not a picture")
    make_mask(folder.path / "small.png", (10, 10))
    bad = [
        {"prompt": "x", "image": "none.png"},
        {"prompt": "x", "image": "text.png"},
        {"prompt": "x", "mask": "small.png"},
        {"prompt": "x", "method": "hdpainter"},
        {"prompt": "x", "steps": 0},
    ]
    folder.write([*bad, {"name": "good", "prompt": "boat"}])
    summary, _, said = folder.run()
    assert summary.done == ["good"] and summary.exit_code == 1
    assert {problem.where: problem.message for problem in summary.failed}.keys() == {
        f"jobs.jsonl, line {number}" for number in range(1, 6)
    }
    for part in ("none.png is not there", "is not a picture", "10 x 10", "unknown method", "steps is 0"):
        assert part in said
    report = json.loads((folder.out / "summary.json").read_text("utf-8"))
    assert report["done"] == ["good"] and len(report["failed"]) == 5


def test_an_error_in_one_job_is_recorded_and_it_is_tried_again_next_time(folder):
    broken = FakePainter(fail=lambda prompts: RuntimeError("no luck") if "kite" in prompts else None)
    summary, painter, said = folder.run(broken, batch_size=5)
    assert painter.calls == [PROMPTS, *([prompt] for prompt in PROMPTS)]
    assert summary.exit_code == 1 and len(summary.done) == 4
    (problem,) = summary.failed
    assert problem.where == "jobs.jsonl, line 3" and problem.message == "RuntimeError: no luck"
    assert "in __call__" in problem.trace
    assert "5 jobs at once failed" in said and "[3/5] job2: failed: RuntimeError: no luck" in said
    summary, painter, _ = folder.run()
    assert summary.done == ["job2"] and painter.calls == [["kite"]]


def test_after_a_lack_of_memory_all_run_one_by_one(folder):
    tight = FakePainter(fail=lambda prompts: MemoryError() if len(prompts) > 1 else None)
    summary, painter, _ = folder.run(tight, batch_size=2)
    assert summary.exit_code == 0
    assert painter.calls == [PROMPTS[:2], *([prompt] for prompt in PROMPTS)]


def test_a_picture_cut_short_fails_alone(folder):
    data = make_picture(folder.path / "cut.png", (64, 64)).read_bytes()
    make_mask(folder.path / "cut_mask.png", (64, 64))
    (folder.path / "cut.png").write_bytes(data[: len(data) // 2])
    jobs = [
        {"name": "cut", "prompt": "x", "image": "cut.png", "mask": "cut_mask.png"},
        {"name": "ok", "prompt": "x"},
    ]
    folder.write(jobs)
    summary, _, _ = folder.run(batch_size=2)
    assert summary.done == ["ok"] and "cut.png cannot be decoded" in summary.failed[0].message


def test_pictures_of_others_are_left_alone(folder):
    folder.out.mkdir()
    mine = make_picture(folder.out / "job1.png").read_bytes()
    with pytest.raises(UserError, match=r"job1.png exists and was not made by a batch; .*--out"):
        folder.run()
    assert folder.files() == {"job1.png": mine}
    assert folder.run(overwrite=True)[0].exit_code == 0
    assert folder.files()["job1.png"] != mine


@pytest.mark.parametrize("name", ["job1.json", "summary.json"])
@pytest.mark.parametrize("text", ["mine", "[]", '{"format": 1}', '{"format": 1, "output": {}}'])
def test_other_files_of_others_are_left_alone_too(folder, name, text):
    folder.out.mkdir()
    (folder.out / name).write_text(text)
    with pytest.raises(UserError, match=f"{name} exists and was not made by a batch"):
        folder.run()
    assert folder.files() == {name: text.encode()}
    assert folder.run(overwrite=True)[0].exit_code == folder.run()[0].exit_code == 0


def test_a_record_that_was_spoilt_makes_the_picture_somebodys(folder):
    folder.run()
    record = json.loads((folder.out / "job1.json").read_text("utf-8"))
    (folder.out / "job1.json").write_text(json.dumps({**record, "output": None}))
    with pytest.raises(UserError, match=r"job1\.png exists and was not made by a batch"):
        folder.run()


@pytest.mark.parametrize("name", ["job1.png", "job1.json"])
def test_a_folder_in_the_way_is_told_before_the_model_loads(folder, name):
    (folder.out / name).mkdir(parents=True)
    summary, painter, _ = folder.run(overwrite=True)
    assert summary.exit_code == 1 and len(summary.done) == 4
    assert f"{name} is a folder; move it" in summary.failed[0].message and [PROMPTS[1]] not in painter.calls


def test_what_a_job_reads_is_never_replaced(folder):
    folder.out = folder.path
    folder.write([{"name": "a", "prompt": "kite"}, {"name": "M", "image": "m.png", "prompt": "sun"}])
    before = {name: (folder.path / name).read_bytes() for name in ("a.png", "m.png")}
    (folder.path / "M.png").symlink_to("m.png")
    summary = folder.run(overwrite=True)[0]
    assert summary.exit_code == 1 and not summary.done
    assert [problem.message.split("/")[-1] for problem in summary.failed] == [
        f"{name} is what the job reads, and would be lost: give the result another name"
        for name in ("a.png", "M.png")
    ]
    assert before == {name: (folder.path / name).read_bytes() for name in before}


def test_results_of_another_job_file_are_left_alone(folder):
    folder.run()
    other = folder.path / "other.jsonl"
    folder.source = folder.source.rename(other)
    assert len(folder.run()[0].skipped) == 5  # the same jobs: nothing would be replaced
    folder.write([{"name": "job3", "prompt": "another"}])
    before = folder.pixels()
    with pytest.raises(UserError, match=r"job3.png was made by \.\./jobs.jsonl"):
        folder.run()
    assert folder.pixels() == before


def test_a_job_file_and_its_results_can_move_together(folder, tmp_path_factory):
    folder.run()
    new = tmp_path_factory.mktemp("moved") / "place"
    folder.path.rename(new)
    folder.path, folder.out, folder.source = new, new / "out", new / "jobs.jsonl"
    folder.write([{"name": "job0", "prompt": "other"}])
    assert folder.run()[0].done == ["job0"]


def test_a_picture_that_was_edited_is_kept(folder):
    folder.run()
    edited = make_picture(folder.out / "job0.png", seed=5).read_bytes()
    summary, _, said = folder.run()
    assert "job0.png was edited since it was made; kept" in said and len(summary.skipped) == 5
    folder.write([{"name": "job0", "prompt": "other"}])
    with pytest.raises(UserError, match="edited"):
        folder.run()
    assert (folder.out / "job0.png").read_bytes() == edited


def test_ctrl_c_stops_at_once_and_the_next_run_goes_on(folder):
    impatient = FakePainter(fail=lambda prompts: KeyboardInterrupt() if prompts == ["kite"] else None)
    summary, _, said = folder.run(impatient)
    assert summary.exit_code == 130 and summary.done == ["job0", "job1"]
    assert "interrupted: 2 done" in said
    assert json.loads((folder.out / "summary.json").read_text("utf-8"))["interrupted"] is True
    summary, painter, _ = folder.run()
    assert summary.exit_code == 0 and painter.calls == [["kite"], [""], ["ein Bär 🐻"]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again_nothing_is_lost_repeated_or_half_written(folder, tmp_path_factory):
    whole = Folder(tmp_path_factory.mktemp("whole"))
    whole.run()
    diary, kills = folder.path / "diary.txt", 0
    moments = random.Random(0)
    while len(list(folder.out.glob("*.png"))) < len(PROMPTS):
        before = len(list(folder.out.glob("*.png")))
        child = in_child(lambda: folder.run(FakePainter(delay=0.02, diary=diary)))
        while len(list(folder.out.glob("*.png"))) == before:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        exit_code(child)
        kills += 1
        for path in folder.out.glob("*.png"):
            assert whole.pixels()[path.stem] == np.array(Image.open(path)).tolist()
            record = json.loads(path.with_suffix(".json").read_text("utf-8"))
            assert record["output"]["file"] == path.name
    assert folder.run()[0].exit_code == 0
    assert kills >= 2
    assert folder.pixels() == whole.pixels() and set(folder.files()) == set(whole.files())
    made = [line.split(maxsplit=1)[1:] for line in diary.read_text("utf-8").splitlines()]
    assert len(made) <= len(PROMPTS) + kills  # at most the picture at work when it was killed is made twice


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_crash_at_any_file_operation_is_mended_by_the_next_run(tmp_path_factory):
    """The child dies at the n-th operation on the output folder, for every n that there is."""

    def crash_at(n, out):
        count = 0

        def hook(event, args):
            nonlocal count
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and str(out) in str(
                args[0]
            ):
                count += 1
                if count == n:
                    os._exit(137)

        sys.addaudithook(hook)  # cannot be removed: only ever in a child

    jobs = [{"name": "old", "prompt": "boat"}]
    changed = [{"name": "old", "prompt": "ship"}, {"name": "new", "prompt": "hat"}]
    expected = Folder(tmp_path_factory.mktemp("whole"), changed)
    expected.run()
    made = Folder(tmp_path_factory.mktemp("made") / "place", jobs)
    made.run()
    n, code = 0, 137
    while code == 137:
        n += 1
        shutil.copytree(made.path, place := tmp_path_factory.mktemp("crash") / "place")
        folder = Folder(place, changed)

        def work(folder=folder, n=n):
            crash_at(n, folder.out)
            folder.run()

        code = exit_code(in_child(work))
        summary, _, _ = folder.run()
        assert summary.exit_code == 0 and sorted(summary.done + summary.skipped) == ["new", "old"], n
        assert folder.pixels() == expected.pixels()
        assert set(folder.files()) == set(expected.files()), n
    assert code == 0 and n > 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_do_not_write_to_one_folder_and_a_dead_one_does_not_block(folder):
    child = in_child(lambda: folder.run(FakePainter(delay=5)))
    while not (folder.out / ".hdpainter" / "unfinished").exists():
        time.sleep(0.01)
    with pytest.raises(UserError, match=f"process {child} on .* is writing to .*--out"):
        folder.run()
    os.kill(child, signal.SIGKILL)
    exit_code(child)
    assert folder.run()[0].exit_code == 0
