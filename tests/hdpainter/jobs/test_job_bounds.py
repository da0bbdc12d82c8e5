"""Job files that anybody may have written: one line in no time, and nothing of them runs."""

import time

import pytest
import yaml

from hdpainter.cli import main
from hdpainter.jobs.job_files import read_jobs
from hdpainter.models.random_weights import write_random_checkpoint
from hdpainter.models.registry import MODELS
from ldm.util import UserError
from tests.hdpainter.fakes import make_mask, make_picture

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
)


def refusal(path):
    started = time.process_time()
    with pytest.raises(UserError) as caught:
        read_jobs(path)
    assert time.process_time() - started < 2
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.yaml", BOMB, "aliases (*name) would unfold"),
        ("a.yaml", "jobs: " + "[" * 100_000, "nested too deeply"),
        ("a.yaml", "jobs: " + "- " * 100_000, "not valid YAML"),
        ("a.yaml", f"jobs: {'9' * 5000}", "a number of 5,000 digits"),
        ("a.yaml", f"defaults: {{seed: {'9' * 99}}}\njobs: []", "seed is 9999"),
        ("a.yaml", "jobs: 2024-13-01", "jobs must be a list, not '2024-13-01'"),
        ("a.yaml", "out: [" + "x, " * 5_000 + "x]", "out must be text"),
        ("a.yaml", "jobs: !!python/object/apply:os.system [ls]", "is no plain value"),
        ("a.yaml", "a: 1\na: 2", "key 'a' stands twice"),
        ("a.jsonl", "[" * 100_000, "a.jsonl, line 1 is not valid JSON: it is nested too deeply"),
        ("a.jsonl", '{"prompt": ' + '{"a":' * 100_000, "nested too deeply"),
        ("a.jsonl", '{"seed": ' + "9" * 5000 + "}", "is not valid JSON"),
        (
            "a.jsonl",
            "{" + ", ".join(f'"k{n}": 1' for n in range(100_000)) + ', "k99999": 1}',
            "'k99999' stands",
        ),
        ("a.jsonl", '{"' + "k" * 100_000 + '": 1}', "unknown key 'kkkk"),
    ],
)
def test_what_unfolds_or_goes_deep_is_one_line(tmp_path, name, text, says):
    path = tmp_path / name
    path.write_text(text)
    assert says in refusal(path)


@pytest.mark.parametrize("line", ["9" * 4000, "[" * 90 + "]" * 90, '"' + "x" * 10_000 + '"'])
def test_jobs_that_are_no_mapping_are_quoted_in_short(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(line)
    (problem,) = read_jobs(path).problems
    assert "a job must be a mapping" in problem.message and len(problem.message) < 200


def test_a_model_that_names_other_code_runs_it_only_with_trust(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_random_checkpoint(MODELS / "mini-inpainting.yaml", tmp_path / "w.safetensors")
    config = {"model": {"target": "os.mkdir", "params": {"path": str(tmp_path / "made")}}}
    (tmp_path / "evil.yaml").write_text(yaml.safe_dump(config))
    stage = {"config": "evil.yaml", "checkpoint": "w.safetensors"}
    (tmp_path / "pipe.yaml").write_text(yaml.safe_dump({"pipeline": {"inpainting": stage}}))
    make_picture(tmp_path / "a.png")
    make_mask(tmp_path / "m.png")
    (tmp_path / "jobs.yaml").write_text(
        "model: pipe.yaml\njobs: [{image: a.png, mask: m.png, prompt: x, superres: false}]"
    )
    assert main(["batch", "jobs.yaml"]) == 2
    assert "evil.yaml: target 'os.mkdir' is no network of this project" in capsys.readouterr().err
    verify = ["models", "verify", "w.safetensors", "--config", "evil.yaml"]
    assert main(verify) == 2 and "--trust-config" in capsys.readouterr().err
    for words, says in (
        (["batch", "jobs.yaml"], "evil.yaml is not the config of an inpainting model"),
        (verify, "'os.mkdir' is no class"),
    ):
        assert main([*words, "--trust-config"]) == 2  # it was looked up
        assert says in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
