"""Configs of the benchmark: grids, seeds, and mistakes told in one line before anything is made."""

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.config import MOST_BASE, Config, expand, seed_of
from ldm.util import UserError
from tests.eval.running import made


@settings(deadline=None)
@given(
    axes=st.dictionaries(
        st.sampled_from(["steps", "eta", "seed", "painta.until"]),
        st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True),
    )
)
def test_a_grid_is_every_combination_once(axes):
    entries = expand("painta", axes, "mini")
    assert (
        len(entries)
        == len({entry.name for entry in entries})
        == np.prod([len(v) for v in axes.values()] or [1])
    )
    for entry in entries:
        assert entry.base == "painta" and entry.varied.keys() == axes.keys()
        assert entry.name == ",".join(["painta", *(f"{k}={v}" for k, v in entry.varied.items())])
        assert all(value in axes[key] for key, value in entry.varied.items())
        values = vars(entry.how) | vars(entry.how)["override"] | {"seed": entry.seed}
        assert all(values[key] == value for key, value in entry.varied.items())


def test_levels_are_lists_themselves():
    assert [entry.name for entry in expand("painta", {"painta_levels": [1, 2]}, "mini")] == ["painta"]
    grid = expand("painta", {"painta_levels": [[1], [1, 2]]}, "mini")
    assert [entry.name for entry in grid] == ["painta,painta_levels=1", "painta,painta_levels=1+2"]


@settings(deadline=None)
@given(st.integers(0, MOST_BASE), st.integers(0, MOST_BASE), st.integers(0, 999_999), st.integers(0, 999_999))
def test_seeds(base, other, index, another):
    assert seed_of(base, False, index) == base
    same = seed_of(base, True, index) == seed_of(other, True, another)
    assert same == ((base, index) == (other, another))


@pytest.mark.parametrize(
    ("methods", "values", "message"),
    [
        (
            {"a": {"kind": "magic"}},
            {},
            "methods: a: kind 'magic' is not one of pipeline, bld, glide, nuwa-lip",
        ),
        ({"a": {}}, {}, "unknown method 'a'; known: bld"),
        ({"painta": {"step": 3}}, {}, "methods: painta: unknown key 'step'; did you mean 'steps'?"),
        ({"painta": {"steps": "x"}}, {}, "methods: painta: steps must be a whole number, not 'x'"),
        ({"painta": {"rasg.scale": 2}}, {}, "method painta has no 'rasg', so rasg.scale cannot be set"),
        ({"painta": {"painta.scale": 2}}, {}, "method painta: unknown key 'painta.scale'; did you mean"),
        ({"painta": {"seed": "x"}}, {}, "methods: painta: seed must be a whole number, not 'x'"),
        ({"painta": {"seed": -1}}, {}, "methods: painta: seed is -1: give a number from 0 to 4294967295"),
        ({"painta": {"seed": 2**32}}, {}, f"methods: painta: seed is {2**32}: give a number from 0"),
        (
            {"painta": {"seed": 4294}},
            {},
            "seed 4294 is too large for seeds per sample: give one from 0 to 4293",
        ),
        ({"painta": {}}, {"seeds": {"base": 4294}}, "seed 4294 is too large"),
        (
            {"painta": {"steps": list(range(1, 101)), "eta": [0.1] * 100}},
            {},
            "its lists make 10000 runs: give",
        ),
        ({"painta": {f"k{i}": [1] * 100 for i in range(50)}}, {}, "runs: give at most 1,000"),
        ({f"a{i}": {"kind": "mean"} for i in range(1001)}, {}, "over 1,000 runs"),
        ({"painta": {"masks.dilate": 10**9}}, {}, "masks.dilate is 1000000000: give a number of pixels"),
        ({"painta": {"guidance_scale": 1e9}}, {}, "guidance_scale is 1000000000.0: give a number up to 1000"),
        ({"a": {"kind": "bld", "steps": 10**9}}, {}, "steps is 1000000000: give a number from 1 to 1000"),
        ({"a": {"kind": "mean"}}, {"benchmark": {"samples": 10**9}}, "benchmark.samples is 1000000000"),
        ({"a": {"kind": "mean"}}, {"batch_size": 10**9}, "batch_size is 1000000000"),
        ({"a" * 5000: {"kind": "mean"}}, {}, "cannot be the name of a folder"),
        ({"painta": {"seed": []}}, {}, "methods: painta: seed is an empty list"),
        ({"painta": {1: 2}}, {}, "methods: painta: unknown key 1"),
        ({1: {"kind": "mean"}}, {}, "methods: 1: a name must be text"),
        ({"a": {"kind": "mean", "label": 3}}, {}, "methods: a: label must be text, not 3"),
        ({"a": {"kind": "mean", "why_not": True}}, {}, "methods: a: why_not must be text, not True"),
        ({"a": {"kind": {"x": 1}}}, {}, "methods: a: kind {'x': 1} is not one of"),
        (
            {"a": {"kind": "folder", "path": "/", "pattern": "{index.foo}"}},
            {},
            "pattern '{index.foo}' does not fit",
        ),
        ({"a": {"kind": "mean"}}, {"benchmark": {"seed": -1}}, "benchmark.seed is -1"),
        ({"a": {"kind": "mean"}}, {"seeds": {"base": -1}}, "seeds.base is -1"),
        ({"painta": 3}, {}, "methods: painta must be a mapping of settings, not 3"),
        ({"../a": {"kind": "mean"}}, {}, "'../a' cannot be the name of a folder"),
        ({"inputs": {"kind": "mean"}}, {}, "'inputs' cannot be the name of a folder"),
        ({"a": {"kind": "folder"}}, {}, "needs a path, or why_not"),
        ({"a": {"kind": "folder", "path": "/none"}}, {}, "/none is not a folder of results"),
        (
            {"a": {"kind": "folder", "path": "/", "pattern": "{name}.png"}},
            {},
            "pattern '{name}.png' does not fit",
        ),
        ({"a": {"kind": "bld", "skip": 1.0}}, {}, "skip is 1.0"),
        ({}, {}, "methods is empty"),
        ({"a": {"kind": "mean"}}, {"benchmark": {"size": 4}}, "benchmark.size is 4"),
        ({"a": {"kind": "mean"}}, {"benchmark": {"size": 10**9}}, "benchmark.size is 1000000000"),
        ({"a": {"kind": "mean"}}, {"benchmark": {"coco": "toy", "images": 0}}, "benchmark.images is 0"),
        ({"a" * 300: {"kind": "mean"}}, {}, "cannot be the name of a folder"),
        ({"a": {"kind": "telea", "radius": float("nan")}}, {}, "radius is nan"),
        ({"painta": {"painta_levels": ["x"]}}, {}, "painta_levels must be a list of downsampling factors"),
        (
            {"a": {"kind": "mean"}},
            {"benchmark": {"samples": None}},
            "benchmark needs one of samples and list",
        ),
        ({"a": {"kind": "mean"}}, {"benchmark": {"coco": "toy"}}, "benchmark.images is how many pictures"),
        (
            {"a": {"kind": "mean"}},
            {"benchmark": {"prompt": "any"}},
            "prompt must be one of true, other, not 'any'",
        ),
        ({"a": {"kind": "mean"}}, {"model": "huge", "batchsize": 3}, "unknown key 'batchsize'; did you mean"),
        ({"painta": {}}, {"model": "huge"}, "unknown model 'huge'"),
        ({"a": {"kind": "mean"}}, {"out": ""}, "out is missing"),
    ],
)
def test_bad_configs_are_one_line(write_config, methods, values, message):
    with pytest.raises(UserError) as error:
        made(write_config(methods, **values))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("benchmark", ["", "benchmark: toy\n", "benchmark: null\n"])
def test_a_config_without_a_benchmark_is_refused_with_coco_given_too(tmp_path, benchmark):
    path = tmp_path / "c.yaml"
    path.write_text(f"out: a\n{benchmark}methods: {{mean: {{kind: mean}}}}\n")
    for coco in (None, "here"):
        with pytest.raises(UserError, match=r"c\.yaml: .*benchmark"):
            Config.load(path, coco=coco)


def test_yaml_s_true_is_the_prompt_setting(tmp_path, toy_root):
    path = tmp_path / "c.yaml"
    benchmark = f"{{coco: {toy_root}, samples: 1, prompt: true}}"
    path.write_text(f"out: a-{{prompt}}\nbenchmark: {benchmark}\nmethods: {{mean: {{kind: mean}}}}\n")
    assert Config.load(path).out == "a-true"
    assert Config.load(path, prompt="other").out == "a-other"


@pytest.mark.parametrize("name", ["table1", "table2", "mini-table1", "mini-table2"])
def test_the_configs_that_come_with_the_repository(name):
    config = Config.load(name)
    names = [entry.name for entry in config.entries()]
    assert {"stable-inpainting", "hd-painter"} <= set(names)
    assert config.for_tables["published"] == name.removeprefix("mini-")
    if config.benchmark.list:
        assert Path(config.benchmark.list).is_file()


@pytest.mark.parametrize("mini", ["", "mini-"])
def test_the_tables_share_what_they_make_and_are_scored_as_by_the_authors(mini):
    tables = [Config.load(f"{mini}{name}") for name in ("table1", "table2", "strength", "blended")]
    assert len({config.out for config in tables}) == 1
    assert all((config.seeds.base, config.seeds.per_sample) == (1, False) for config in tables)
    known: dict[str, dict] = {}
    for config in tables:
        for entry in config.entries():
            if entry.kind in ("pipeline", "bld", "reconstruction"):
                assert entry.how.known_region == "decoded"
            values = {key: value for key, value in vars(entry.how).items() if key != "model"}
            assert known.setdefault(entry.name, values) == values
    joined = {entry.how.of for entry in tables[1].entries() if entry.kind == "joined"}
    assert joined == {entry.name for entry in tables[1].entries() if entry.kind == "pipeline"}


@pytest.mark.parametrize("name", ["ablation", "mini-ablation"])
def test_the_ablation_changes_one_thing_a_row(name):
    """Against HD-Painter, but for the seeds, the two parts and the paper's argument."""
    config = Config.load(name)
    entries = {entry.name: entry for entry in config.entries()}
    ours = entries["hd-painter"].how
    assert (config.for_tables["ours"], config.for_tables["baseline"]) == ("hd-painter", "hd-painter")
    changes = {}
    for entry in entries.values():
        if entry.base in ("stable-inpainting", "painta", "rasg", "seeds", "reweighted", "post-hoc"):
            continue
        how = entry.how
        pair = [
            {"method": each.resolved(), "levels": (each.painta_levels, each.rasg_levels)}
            for each in (how, ours)
        ]
        flat = [places_of(each) for each in pair]
        changes[entry.name] = {key for key in flat[0] if flat[0][key] != flat[1][key]}
    for entry, changed in changes.items():
        if entry.startswith("cumulative"):
            assert changed <= {"rasg.sigma", "sampler.eta"} and "rasg.sigma" in changed
        elif entry != "hd-painter":
            assert len(changed) == 1, entry
    assert {"sampler.eta", "sampler.steps", "painta.until", "painta.smoothing", "painta.query", "rasg.objective",
            "rasg.center", "painta_levels", "rasg_levels"} <= set().union(*changes.values())  # fmt: skip
    assert entries["post-hoc,rasg.scale=10"].how.resolved().rasg.scale == 10
    assert len([entry for entry in entries.values() if entry.base == "seeds"]) == 3


def places_of(each) -> dict:
    """All values of a method by their place, and the levels that it acts on."""
    method = asdict(each["method"])
    found = dict(zip(("painta_levels", "rasg_levels"), each["levels"], strict=True))
    for part, values in method.items():
        found |= (
            {f"{part}.{key}": value for key, value in values.items()}
            if isinstance(values, dict)
            else {part: values}
        )
    return found


@pytest.mark.parametrize(
    ("values", "says"),
    [({"steps": 10**7}, "steps is 10000000"), ({"painta_levels": [64]}, "downsampling factor 64")],
)
def test_a_config_is_checked_before_torch_is_imported(tmp_path, values, says):
    content = {
        "out": str(tmp_path / "run"),
        "benchmark": {"coco": "toy", "images": 4, "samples": 2, "size": 64},
    }
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump({**content, "model": "mini", "methods": {"painta": values}})
    )
    code = """if True:
        import sys
        from eval.__main__ import main
        status = main(["generate", "--config", sys.argv[1]])
        sys.exit(status if "torch" not in sys.modules else "torch was imported")
    """
    words = [sys.executable, "-c", code, str(tmp_path / "run.yaml")]
    found = subprocess.run(words, capture_output=True, text=True)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1) and says in found.stderr
