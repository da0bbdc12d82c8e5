"""Building on the meta device, reading files of any kind, strict loading."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file
from torch import nn

from hdpainter.models.safetensors import write_safetensors
from ldm.checkpoint import build, load_into, misfit, read_state_dict
from ldm.util import CONFIGS, UserError
from tests.ldm import tiny
from tests.support import GOLDEN, rule_w

CONFIG = tiny.config("LatentInpaintDiffusion", in_channels=9, conditioning_key="hybrid")


def examples(count: int) -> settings:
    return settings(
        max_examples=count, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return rule_w_of(CONFIG)


def rule_w_of(config) -> dict[str, torch.Tensor]:
    model = build(config)
    schedules = dict(model.named_buffers())
    model.to_empty(device="cpu")
    return {**rule_w(model).state_dict(), **schedules}


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_file(weights, path)
    return path


@pytest.fixture(scope="module")
def on_meta() -> nn.Module:
    return build(CONFIG)


def message(function, *args, **kwargs) -> str:
    """The text of the UserError that a call must raise: one line."""
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- loading ---


def test_a_loaded_model_computes_what_the_saved_one_did(file, weights):
    saved = build(CONFIG).to_empty(device="cpu")
    saved.load_state_dict(weights)
    loaded = build(CONFIG)
    load_into(loaded, file, "tiny.yaml")
    x, t, c = torch.randn(2, 9, 8, 8), torch.tensor([3, 900]), torch.randn(2, 3, 16)
    for network in (
        lambda m: m.model.diffusion_model(x, t, c),
        lambda m: m.first_stage_model.decode(x[:, :4]),
    ):
        with torch.no_grad():
            assert torch.equal(network(loaded), network(saved))


def test_weights_are_the_file_itself_and_not_a_copy(file, tmp_path):
    path = tmp_path / "copy.safetensors"
    path.write_bytes(file.read_bytes())
    model = build(CONFIG)
    load_into(model, path, "tiny.yaml")
    name, parameter = next(iter(model.first_stage_model.named_parameters()))
    header = int.from_bytes(path.read_bytes()[:8], "little")
    start = json.loads(path.read_bytes()[8 : 8 + header])[f"first_stage_model.{name}"]["data_offsets"][0]
    with path.open("r+b") as raw:  # what must not be done to a file in use shows that it is in use
        raw.seek(8 + header + start)
        raw.write(np.float32(123).tobytes())
    assert parameter.detach().flatten()[0] == 123


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
@pytest.mark.parametrize("kind", ["safetensors", "ckpt", "legacy"])
def test_every_format_gives_the_same_weights_under_every_name(weights, tmp_path, kind, name):
    path = tmp_path / name
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights}, path, _use_new_zipfile_serialization=kind == "ckpt")
    read = read_state_dict(path)
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)


MODULES = ("", "model", "model.diffusion_model", "model.diffusion_model.input_blocks.1", "first_stage_model",
           "first_stage_model.decoder", "cond_stage_model")  # fmt: skip
dtypes = st.sampled_from((torch.float16, torch.bfloat16, torch.float32, torch.float64))


@examples(12)
@given(st.none() | dtypes | st.dictionaries(st.sampled_from(MODULES), dtypes))
def test_dtypes_follow_the_longest_prefix(file, weights, policy):
    model = build(CONFIG)
    load_into(model, file, "tiny.yaml", dtype=policy)
    if not isinstance(policy, dict):
        policy = {"": policy or torch.float32}
    for name, parameter in model.named_parameters():
        owners = [module for module in policy if f"{name}.".startswith(f"{module}." if module else "")]
        expected = policy[max(owners, key=len)] if owners else torch.float32
        assert parameter.dtype == expected, name
        assert torch.equal(parameter, weights[name].to(expected)), name


def test_schedules_keep_their_precision_in_half_precision_files(weights, tmp_path):
    path = tmp_path / "half.safetensors"
    save_file({name: tensor.half() for name, tensor in weights.items()}, path)
    model = build(CONFIG)
    load_into(model, path, "tiny.yaml")
    assert model.model.diffusion_model.out[2].weight.dtype == torch.float16
    assert torch.equal(model.alphas_cumprod, build(CONFIG).alphas_cumprod)


def test_known_extras_are_tolerated_and_tables_may_be_missing(weights, tmp_path):
    schedule = {name for name, _ in build(CONFIG).named_buffers()}
    extras = (
        "model_ema.decay", "model_ema.diffusion_modelout2weight", "first_stage_model.loss.logvar", "logvar",
        "cond_stage_model.transformer.text_model.embeddings.position_ids", "low_scale_model.betas",
        "cond_stage_model.model.logit_scale", "cond_stage_model.model.text_projection", "lvlb_weights",
    )  # fmt: skip
    path = tmp_path / "extras.safetensors"
    kept = {name: tensor for name, tensor in weights.items() if name not in schedule}
    save_file(kept | {name: torch.zeros(2) for name in extras}, path)
    model = build(CONFIG)
    load_into(model, path, "tiny.yaml")
    assert schedule and torch.equal(model.betas, build(CONFIG).betas)


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_scale_factor_found_in_training_is_the_files(tmp_path, dtype):
    config = tiny.config(scale_by_std=True)
    path = tmp_path / "scaled.safetensors"
    save_file(rule_w_of(config) | {"scale_factor": torch.tensor(0.123)}, path)
    model = build(config)
    load_into(model, path, "tiny.yaml", dtype=dtype)
    assert model.scale_factor.dtype == torch.float32 and model.scale_factor.item() == pytest.approx(0.123)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_weights_that_are_no_numbers_are_told(weights, tmp_path, value, dtype):
    name, path = "first_stage_model.decoder.conv_out.weight", tmp_path / "broken.safetensors"
    broken = weights[name].clone()
    broken[0, 0, 0, 0] = value
    save_file(weights | {name: broken}, path)
    text = message(load_into, build(CONFIG), path, "tiny.yaml", dtype=dtype)
    assert f"{path}: {name} has NaN or infinite values" in text
    large = weights | {name: torch.full_like(broken, 3e38)}  # whose sum is infinite, but no value is
    save_file(large, path)
    load_into(build(CONFIG), path, "tiny.yaml")


# --- files of another model ---


@examples(25)
@given(data=st.data())
def test_every_misfit_is_named(on_meta, weights, data):
    names = sorted(name for name, _ in on_meta.named_parameters())
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=9, unique=True))
    split = sorted(data.draw(st.tuples(st.integers(0, len(chosen)), st.integers(0, len(chosen)))))
    dropped, renamed, reshaped = chosen[: split[0]], chosen[split[0] : split[1]], chosen[split[1] :]
    changed = {name: tensor for name, tensor in weights.items() if name not in (*dropped, *renamed)}
    changed |= {f"{name}_": weights[name] for name in renamed}
    changed |= {name: torch.zeros(7, 7, 7) for name in reshaped}
    text = misfit(on_meta, changed)
    for count, what in (
        (len(dropped) + len(renamed), "missing"),
        (len(renamed), "unexpected"),
        (len(reshaped), "of another shape"),
    ):
        assert (f"{count} {what}" in text) if count else (what not in text)
    named = [name for name in names if name in text]
    assert named
    assert set(named) <= {name for key in chosen for name in names if name in key}


def test_a_misfit_names_file_and_config_and_leaves_the_model_alone(weights, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({f"x.{name}": tensor for name, tensor in weights.items()}, path)
    model = build(CONFIG)
    text = message(load_into, model, path, "tiny.yaml")
    assert str(path) in text and "tiny.yaml" in text and "missing (betas" not in text
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("of", "looks_like"),
    [
        ("sd2-base", "Stable Diffusion 2 text-to-image"),
        ("x4-upscaler", "Stable Diffusion 2 x4 upscaler"),
        ("sd1-inpainting", "Stable Diffusion 1 inpainting"),
    ],
)
def test_another_public_model_is_recognised(of, looks_like):
    model = build(OmegaConf.load(CONFIGS / "models" / "sd2-inpainting.yaml").model)
    layout = json.loads(gzip.decompress((GOLDEN / "state_dicts" / f"{of}.json.gz").read_bytes()))
    text = misfit(model, {name: torch.empty(shape, device="meta") for name, shape in layout.items()})
    assert looks_like in text
    if of == "sd2-base":  # the two differ in the first convolution only
        assert "[320, 4, 3, 3] in the file, [320, 9, 3, 3] in the model" in text


def test_a_part_of_a_diffusers_folder_is_recognised(on_meta):
    assert "hdpainter models convert" in misfit(
        on_meta, {"down_blocks.0.resnets.0.norm1.weight": torch.zeros(1)}
    )


def test_another_noise_schedule_is_refused(weights, tmp_path):
    other = build(CONFIG | {"params": CONFIG["params"] | {"linear_end": 0.02}})
    path = tmp_path / "schedule.safetensors"
    save_file(weights | {"alphas_cumprod": other.alphas_cumprod}, path)
    assert "alphas_cumprod" in message(load_into, build(CONFIG), path, "tiny.yaml")


# --- files that are no checkpoints ---


@examples(40)
@given(share=st.floats(0, 1, exclude_max=True), kind=st.sampled_from(("safetensors", "ckpt", "legacy")))
def test_a_file_cut_anywhere_is_refused(tmp_path, share, kind):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    tensors = {f"layer{i}.weight": torch.ones(20, 20) for i in range(4)}
    if kind == "safetensors":
        save_file(tensors, whole)
    else:
        torch.save(tensors, whole, _use_new_zipfile_serialization=kind == "ckpt")
    data = whole.read_bytes()
    cut.write_bytes(data[: int(share * len(data))])
    text = message(read_state_dict, cut)
    assert str(cut) in text
    reasons = ["cut short", "is empty", "neither a safetensors nor a torch"]
    if kind == "legacy":  # cut within the name of a class, which is then another's
        reasons.append("holds an object other than tensors")
    assert any(reason in text for reason in reasons)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><head><title>404</title>", "a web page"),
        (b"<html lang=en>" + b" " * 100, "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"GIF89a" + bytes(100), "neither a safetensors nor a torch checkpoint"),
        (b"\xff" * 8 + b"{" + b" " * 100, "damaged or cut short"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_other_files_are_told_by_their_content(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    text = message(read_state_dict, path)
    assert says in text and str(path) in text


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.ckpt")
    for path in (tmp_path / "model.ckpt", Path("/dev/zero")):
        assert f"{path} is a pipe, a socket or a device" in message(read_state_dict, path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    assert str(tmp_path / "no.ckpt") in message(read_state_dict, tmp_path / "no.ckpt")
    assert str(tmp_path) in message(read_state_dict, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(2)],
        {"state_dict": {"epoch": 3}},
        {"state_dict": [torch.zeros(2)]},
        {3: torch.zeros(2)},
        5,
        torch.zeros(2),
    ],
)
def test_a_pickle_without_named_tensors_is_refused(tmp_path, content):
    path = tmp_path / "model.ckpt"
    torch.save(content, path)
    assert "no tensors by name" in message(read_state_dict, path)


# --- pickles ---


class Payload:
    """Calls a function when unpickled."""

    def __init__(self, function: Callable, *args: str):
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call


def test_what_training_frameworks_leave_in_checkpoints_is_skipped(weights, tmp_path):
    path = tmp_path / "public.ckpt"
    loop = {"best_model_score": torch.tensor(1.0), "lr": np.float64(1e-4), "kind": np.dtype("float32")}
    torch.save({"state_dict": weights, "callbacks": {ModelCheckpoint: loop}, "lr": np.float32(3)}, path)
    allowed = set(torch.serialization.get_safe_globals())
    assert read_state_dict(path).keys() == weights.keys()
    assert set(torch.serialization.get_safe_globals()) == allowed


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("function", "named"), [(os.mkdir, f"{os.mkdir.__module__}.mkdir"), (eval, "eval")])
def test_objects_are_refused_by_name_and_never_run(weights, tmp_path, zipped, function, named):
    path, made = tmp_path / "evil.ckpt", tmp_path / "made"
    argument = str(made) if function is os.mkdir else f"__import__('os').mkdir({str(made)!r})"
    content = {"state_dict": weights, "x": Payload(function, argument)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    text = message(read_state_dict, path)
    assert named in text and str(path) in text
    assert not made.exists()


def test_an_unknown_class_is_refused_with_the_command_that_drops_it(weights, tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": weights, "path": Path("x")}, path)
    text = message(read_state_dict, path)
    assert "pathlib" in text
    assert f"hdpainter models convert {path} {tmp_path / 'model'}-tensors.safetensors" in text


def test_placeholders_run_nothing(tmp_path):
    path, copy = tmp_path / "evil.ckpt", tmp_path / "copy"
    torch.save({"w": torch.ones(1), "x": Payload(shutil.copyfile, str(path), str(copy))}, path)
    assert list(read_state_dict(path, ["shutil.copyfile"])) == ["w"]
    assert not copy.exists()


# --- writing ---

kinds = st.sampled_from((torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool))


@examples(50)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
            "__metadata__".__ne__
        ),
        st.tuples(kinds, st.lists(st.integers(0, 5), max_size=4)),
        max_size=6,
    )
)
def test_written_files_read_back(tmp_path, layout):
    tensors = {name: (torch.randn(shape) * 3).to(kind) for name, (kind, shape) in layout.items()}
    path = tmp_path / "written.safetensors"
    write_safetensors(path, tensors, tensors.__getitem__, {"by": "test"})
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)
        assert read[name].data_ptr() % tensor.itemsize == 0
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def tensor_of(name):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "a.safetensors", {"a": torch.zeros(3)}, tensor_of)
    assert list(tmp_path.iterdir()) == []


# --- memory ---

PEAK = """
import resource, sys, torch
from torch import nn
from ldm.checkpoint import build, load_into
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
config = {"target": "torch.nn.Linear", "params": {"in_features": 8192, "out_features": 1024}}
model = nn.ModuleList([build(config) for _ in range(16)])
before = peak()
load_into(model, sys.argv[1], "", dtype=getattr(torch, sys.argv[2]))
total = sum(p.detach().double().sum().item() for p in model.parameters())
print((peak() - before) / sum(p.nbytes for p in model.parameters()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's units of peak memory")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_peak_memory_is_that_of_the_weights(tmp_path, dtype):
    path = tmp_path / "big.safetensors"
    save_file(
        {f"{i}.{p}": torch.ones(s) for i in range(16) for p, s in (("weight", (1024, 8192)), ("bias", 1024))},
        path,
    )
    command = [sys.executable, "-c", PEAK, str(path), dtype]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=CONFIGS.parent)
    # The double-precision sum of one layer and one portion of eight tensors come on top.
    assert float(result.stdout) < 1.2 + (0.5 if dtype == "bfloat16" else 0.25)
