"""Records are true: what they say was read is what was read, whatever happens to files meanwhile."""

import json

import pytest

from hdpainter.images import Hashed, load_image
from hdpainter.jobs.batch import run
from hdpainter.jobs.job_files import read_jobs
from ldm.util import UserError
from tests.hdpainter.fakes import MODEL, FakePainter, make_mask, make_picture


class Folder:
    """Three jobs of one picture."""

    def __init__(self, path):
        self.path, self.out, self.source = path, path / "out", path / "jobs.jsonl"
        make_picture(path / "a.png")
        make_mask(path / "m.png")
        jobs = [{"name": f"j{n}", "image": "a.png", "mask": "m.png", "prompt": f"p{n}"} for n in range(3)]
        self.source.write_text("\n".join(map(json.dumps, jobs)))

    def run(self, painter, model=MODEL):
        file = read_jobs(self.source)
        with (self.path / "log").open("w") as log:
            return run(file, self.out, model, "hd-painter", lambda _: painter, stream=log)

    def record(self, name):
        return json.loads((self.out / f"{name}.json").read_text())


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


@pytest.mark.parametrize("file", ["a.png", "m.png"])
def test_a_picture_that_is_replaced_during_a_batch_fails_its_jobs(folder, file):
    path = folder.path / file
    old = path.read_bytes()

    def replace(prompts):  # while the first job is being painted
        make = make_picture if file == "a.png" else make_mask
        make(path, **({"seed": 1} if file == "a.png" else {"size": (24, 16)}))
        if file == "m.png":
            path.write_bytes(path.read_bytes() + b"\0")

    outcome = folder.run(FakePainter(fail=replace))
    assert outcome.done == ["j0"] and outcome.exit_code == 1
    for problem in outcome.failed:
        assert f"{path} has changed since it was looked at" in problem.message and "\n" not in problem.message
        assert not problem.trace
    assert not (folder.out / "j1.png").exists() and not (folder.out / "j1.json").exists()
    path.write_bytes(old)
    outcome = folder.run(FakePainter())
    assert outcome.done == ["j1", "j2"] and outcome.skipped == ["j0"] and outcome.exit_code == 0
    assert len({json.dumps(folder.record(f"j{n}")["inputs"]["image"]) for n in range(3)}) == 1


class Painter(FakePainter):
    """Says, as the real one, with which files it painted."""

    def __init__(self, models):
        super().__init__()
        self.models = models

    def __call__(self, *args, **settings):
        results = super().__call__(*args, **settings)
        for result in results:
            result.metadata["models"] = self.models
        return results


@pytest.mark.parametrize("key", ["sha256", "config_sha256"])
def test_weights_and_configs_that_are_not_the_planned_ones_fail_the_job(folder, key):
    planned = MODEL | {"inpainting": {"checkpoint": "aa", "config": "cc"}, "upscaler": None}
    used = {"checkpoint": "x.safetensors", "config": "x.yaml", "sha256": "aa", "config_sha256": "cc"}
    outcome = folder.run(Painter({"inpainting": used | {key: "bb"}}), planned)
    file = used["checkpoint" if key == "sha256" else "config"]
    assert not outcome.done and len(outcome.failed) == 3
    assert f"{file} has changed since the jobs were checked" in outcome.failed[0].message
    assert folder.run(Painter({"inpainting": used}), planned).exit_code == 0
    assert folder.run(Painter({"inpainting": used | {"sha256": None}}), planned | {"x": 1}).exit_code == 0


def test_what_is_decoded_is_what_was_hashed(tmp_path):
    path = make_picture(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"image .*a\.png has changed since"):
        load_image(Hashed(path, "0" * 64))
