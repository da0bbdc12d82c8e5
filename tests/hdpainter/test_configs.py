"""YAML files from anywhere: read as plain values, or refused in one line."""

import os
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hdpainter.configs import format_yaml, parse_yaml, read_model_config, read_yaml
from hdpainter.images import load_image
from hdpainter.mini.train import load_config
from hdpainter.models.registry import PipelineSpec, find_checkpoint
from hdpainter.settings import Method
from ldm.util import CONFIGS, UserError, instantiate_from_config


class Own:
    def __init__(self, width):
        self.width = width


@pytest.mark.parametrize(
    "content, problem",
    [
        ("a: [1", "is not valid YAML"),
        ("a: ${nowhere}", "'.{nowhere}' refers to another value"),
        ("a: [1, {b: 'x ${oc.env:HOME}'}]", "'x .{oc.env:HOME}' refers to another value"),
        ("[1, 2]", "must hold a mapping"),
        ("a: 1", "has no 'model'"),
        ("model: {params: {}}", "has no 'model' with a 'target'"),
    ],
)
def test_mistakes_in_a_file_are_named(content, problem, tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=f"model.yaml.* {problem}") as error:
        read_model_config(path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"none.yaml cannot be read: No such file"):
        read_yaml(tmp_path / "none.yaml")


def refused(content: str, path) -> str:
    """The message of `read_yaml` on a file with this content: one line of moderate length, within a second."""
    path.write_text(content)
    start = time.process_time()
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert time.process_time() - start < 1
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text and len(text) < len(str(path)) + 500
    return text


EVIL = (
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "torch.load",
    "torch.hub.load",
    "torch.nn.Module",
    "torch.optim.os.System",
    "posix.system",
    "ldm.util.importlib.import_module",
    "ldm.util.read_yaml",
    "ldm.__main__.Thing",
    "ldm.os..Path",
    "ldmx.Thing",
    "hdpainter.files.write_text",
    "hdpainter.cli.main",
    "hdpainter.__main__.Thing",
    "hdpainter.web.workspace.Workspace",
    "hdpainter.mini.training.autoencoder.AutoencoderTraining",  # draws scenes, and writes them where it is told
    "eval.metrics.make_metric",
    " os.system",
    ".os.system",
    "os.system\n",
)


@pytest.mark.parametrize("target", EVIL)
@pytest.mark.parametrize("place", ["model", "part", "list", "nowhere"])
def test_a_file_cannot_name_what_runs_something_else(tmp_path, target, place):
    evil = {"target": target, "params": {"command": f"touch {tmp_path / 'made'}"}}
    unet = "ldm.modules.diffusionmodules.openaimodel.UNetModel"
    content = {
        "model": {"model": evil},
        "part": {"model": {"target": unet, "params": {"first_stage_config": evil}}},
        "list": {"model": {"target": unet, "params": {"parts": [[evil]]}}},
        "nowhere": {"anything": {"else": evil}},
    }[place]
    assert repr(target) in refused(yaml.safe_dump(content), tmp_path / "evil.yaml")
    with pytest.raises(UserError, match="is no network of this project"):
        read_model_config(tmp_path / "evil.yaml")
    assert not (tmp_path / "made").exists()


def test_a_trusted_file_may_name_anything(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"model": {"target": f"{__name__}.Own", "params": {"width": 3}}}))
    assert instantiate_from_config(read_model_config(path, trusted=True)).width == 3


def test_what_public_configs_name_is_accepted(tmp_path):
    for file in CONFIGS.rglob("*.yaml"):
        read_yaml(file, training=file.parent.name == "train")
    path = tmp_path / "public.yaml"
    for target in (
        "torch.nn.Identity",
        "torch.optim.lr_scheduler.LambdaLR",
        "ldm.lr_scheduler.LambdaLinearScheduler",
        "ldm.models.diffusion.ddpm.LatentDiffusion",
    ):
        path.write_text(f"model: {{target: {target}}}")
        assert read_model_config(path) == {"target": target}


@pytest.mark.parametrize("target", ["hdpainter.mini.scenes.Path", "os.system", "hdpainter.web.engine.Engine"])
def test_a_training_config_names_trainings_and_networks(tmp_path, target):
    path = tmp_path / "train.yaml"
    path.write_text(f"training: {{target: {target}}}")
    with pytest.raises(UserError, match="is no network of this project"):
        load_config(path, [], gpu=False)


def test_what_a_module_only_imports_is_no_class_of_it(tmp_path):
    path = tmp_path / "evil.yaml"
    target = "ldm.modules.encoders.modules.Path"
    path.write_text(f"model: {{target: {target}, params: {{args: x}}}}")
    with pytest.raises(UserError, match=f"target '{target}' is no class"):
        instantiate_from_config(read_model_config(path))


def test_a_model_of_ten_thousand_parts_is_none(tmp_path):
    path = tmp_path / "long.yaml"
    path.write_text("model: {target: torch.nn.Identity, params: {list: [" + "1, " * 10_001 + "]}}")
    with pytest.raises(UserError, match=r"long\.yaml has 10,002 values: a model's config may have 10,000"):
        read_model_config(path)


def bomb(kind: str, levels: int = 9, width: int = 9) -> str:
    """Aliases of aliases that unfold to width ** levels values."""
    form = {
        "list": "[{}]",
        "mapping": "{{{}}}",
        "merge": "{{<<: [{}], own: 1}}",
        "key": "[{}]",
    }[kind]
    lines = ["a0: &a0 " + ("[lol]" if kind != "merge" else "{lol: 1}")]
    for level in range(1, levels + 1):
        names = [f"*a{level - 1}"] * width
        if kind == "mapping":
            names = [f"k{i}: {name} " for i, name in enumerate(names)]
        lines.append(f"a{level}: &a{level} " + form.format(", ".join(names)))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (bomb("list"), "unfold to over 1,000,000 values"),
        (bomb("mapping"), "unfold to over 1,000,000 values"),
        (bomb("merge"), "unfold to over 1,000,000 values"),
        ("a: &a [*a]", "line 1: an alias refers to what it is part of"),
        ("a: &a {b: 1, c: {d: *a}}", "refers to what it is part of"),
        ("[" * 100_000, "nested too deeply"),
        ("a: " + "{b: " * 100_000, "nested too deeply"),
        ("\n".join(" " * i + "a:" for i in range(2000)), "nested too deeply"),
        ("a: " + "9" * 5000, "line 1: a number of 5,000 digits"),
        ("a: 0x" + "f" * 5000, "line 1: a number of 5,002 digits"),
        ("a: 1" + ":1" * 50_000, "digits"),
        ("a: 1" + ":1" * 50_000 + ".5", "must be|none|not valid|"),
        ("a: *" + "x" * 100_000, "undefined alias"),
        ("a: !!" + "x" * 100_000 + " 1", "is no plain value"),
        ("a: !!python/object/apply:os.system [id]", "is no plain value"),
        ("a: !!set {b}", "is no plain value"),
        ("a: !!binary aGk=", "is no plain value"),
        ("a: !!timestamp x", "is no plain value"),
        ('a: !!int ""', "not valid YAML"),
        ("a: !!bool maybe", "not valid YAML"),
        ("a: !!float x", "not valid YAML"),
        ("a: 1\na: 2", "line 2: key 'a' stands twice"),
        ("x: {b: {c: 1, c: 1}}", "line 1: key 'c' stands twice"),
        ("? [1, 2]\n: 3", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_hostile_yaml_is_one_line_within_a_second(tmp_path, content, problem):
    if content.endswith(".5"):  # a number in base 60 is text here
        assert parse_yaml(content, "x") == {"a": content.removeprefix("a: ")}
    else:
        assert problem in refused(content, tmp_path / "hostile.yaml")


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc<=", max_size=3), inner, max_size=4)
    ),
    max_leaves=30,
)


@settings(max_examples=200, deadline=None)
@given(plain)
def test_plain_values_come_back_as_they_were_written(values):
    assert parse_yaml(yaml.safe_dump(values, default_style='"'), "x") == values


def test_yaml_means_what_its_writers_mean():
    text = (
        "a: 1e-4\nb: 15.e-4\nc: 2024-1-1\nd: &d {x: 1, y: 2}\ne: {<<: *d, y: 3}\nf: [*d, *d]\ng: .5\nh: -.inf"
    )
    assert parse_yaml(text, "x") == {
        "a": 1e-4,
        "b": 15e-4,
        "c": "2024-1-1",
        "d": {"x": 1, "y": 2},
        "e": {"x": 1, "y": 3},
        "f": [{"x": 1, "y": 2}] * 2,
        "g": 0.5,
        "h": float("-inf"),
    }


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", "/dev/zero"):
        with pytest.raises(UserError, match=f"{path} is a pipe, a socket or a device"):
            read_yaml(path)


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "a\0b"])
def test_what_can_be_no_path_is_told_in_a_short_line(tmp_path, name):
    for read in (read_yaml, PipelineSpec.load, Method.load, load_image, find_checkpoint):
        with pytest.raises(UserError) as caught:
            read(tmp_path / f"{name}.yaml")
        assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    content = {"inpainting": {"config": "mini-inpainting.yaml", "checkpoint": name}, "size": 64}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"pipeline": content}))
    with pytest.raises(UserError, match="cannot be the path of a file"):
        PipelineSpec.load(tmp_path / "own.yaml")


@given(
    st.from_regex(
        r"[-+]?[0-9_.]{0,4}([eE][-+]?[0-9]{1,2})?|\.(inf|nan)|0[xob]?[0-7]+|null|yes|~", fullmatch=True
    )
)
def test_text_that_looks_like_a_number_is_written_as_text(text):
    assert parse_yaml(format_yaml({"prompt": text, text: 1e-5}), "x") == {"prompt": text, text: 1e-5}
