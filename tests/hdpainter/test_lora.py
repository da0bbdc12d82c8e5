"""LoRAs in the layouts of kohya and diffusers: the networks compute what diffusers' do with the LoRA loaded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from hdpainter.models.choice import ModelChoice
from hdpainter.models.diffusers_keys import unet_key, unet_modules
from hdpainter.models.identity import identify
from hdpainter.models.loading import load
from hdpainter.models.lora import LoRAFile
from hdpainter.models.registry import PipelineSpec, Stage
from ldm.util import UserError
from tests.hdpainter import tiny_diffusers as tiny
from tests.support import layout

UNET = [
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "conv1", "time_emb_proj")
]
UNET += ["conv_shortcut", "conv_in", "downsamplers.0.conv", "upsamplers.0.conv"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
RANK, ALPHA = 2, 3


@pytest.fixture(scope="module", params=[1, 2], ids=["sd1", "sd2"])
def adapted(request, tmp_path_factory) -> Any:
    """A tiny model's folder, a LoRA for it, and what diffusers' UNet and text encoder give with that."""
    folder = tmp_path_factory.mktemp("lora") / "model"
    pipeline = tiny.save(folder, request.param, "inpainting")
    for part, names in ((pipeline.unet, UNET), (pipeline.text_encoder, TEXT)):
        part.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names, init_lora_weights=False))
    state = {
        part: get_peft_model_state_dict(module)
        for part, module in (("unet", pipeline.unet), ("text_encoder", pipeline.text_encoder))
    }
    assert any("lora_A" in name for name in state["unet"]) and len(state["text_encoder"]) == 3 * len(TEXT) * 2
    return SimpleNamespace(folder=folder, pipeline=pipeline, state=state, outputs=outputs(pipeline))


def outputs(pipeline: Any) -> tuple[torch.Tensor, torch.Tensor]:
    x, t, context, tokens = inputs()
    with torch.no_grad():
        return pipeline.unet(x, t, context).sample, pipeline.text_encoder(tokens)[0]


def inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    x, context = (
        torch.randn(2, 9, 8, 8, generator=generator),
        torch.randn(2, 5, tiny.WIDTH, generator=generator),
    )
    return x, torch.tensor([7, 700]), context, torch.randint(tiny.TOKENS, (2, 77), generator=generator)


def pipeline_of(folder: Path, *loras: str) -> PipelineSpec:
    return PipelineSpec("x", Stage(None, str(folder), loras=loras), painta_levels=(1,), rasg_levels=(1,))


def ours(folder: Path, *loras: str) -> tuple[torch.Tensor, torch.Tensor]:
    spec = pipeline_of(folder, *loras)
    model = load(spec, superres=False).inpainting
    x, t, context, tokens = inputs()
    with torch.no_grad():
        return model.model.diffusion_model(x, t, context), model.cond_stage_model(tokens)


def diffusers_file(adapted: Any, path: Path) -> None:
    """As diffusers writes it, with alpha in the header."""
    parts, settings = adapted.state, {}
    for part in parts:
        config = getattr(adapted.pipeline, part).peft_config["default"].to_dict()
        settings[part] = {key: list(v) if isinstance(v, set) else v for key, v in config.items()}
    adapted.pipeline.save_lora_weights(
        path.parent,
        unet_lora_layers=parts["unet"],
        text_encoder_lora_layers=parts["text_encoder"],
        unet_lora_adapter_metadata=settings["unet"],
        text_encoder_lora_adapter_metadata=settings["text_encoder"],
        weight_name=path.name,
    )


def old_diffusers_file(adapted: Any, path: Path) -> None:
    """As diffusers had it before it used peft: alpha is in the weights."""
    renamed = {}
    for part, state in adapted.state.items():
        layer = "lora" if part == "unet" else "lora_linear_layer"
        for name, tensor in state.items():
            scale = ALPHA / RANK if "lora_B" in name else 1
            name = name.replace("lora_A", f"{layer}.down").replace("lora_B", f"{layer}.up")
            renamed[f"{part}.{name}"] = (tensor * scale).contiguous()
    save_file(renamed, path)


def kohya_file(adapted: Any, path: Path) -> None:
    renamed = {}
    for part, prefix in (("unet", "lora_unet"), ("text_encoder", "lora_te_text_model")):
        for name, tensor in adapted.state[part].items():
            module, role = name.removesuffix(".weight").removeprefix("text_model.").rsplit(".", 1)
            module = f"{prefix}_{module.replace('.', '_')}"
            renamed[f"{module}.{ {'lora_A': 'lora_down', 'lora_B': 'lora_up'}[role] }.weight"] = (
                tensor.contiguous()
            )
            renamed[f"{module}.alpha"] = torch.tensor(float(ALPHA))
    save_file(renamed, path)


FORMS = [diffusers_file, old_diffusers_file, kohya_file]


@pytest.mark.parametrize("form", FORMS)
def test_a_lora_does_what_it_does_in_diffusers(adapted, tmp_path, form):
    form(adapted, tmp_path / "lora.safetensors")
    found = ours(adapted.folder, str(tmp_path / "lora.safetensors"))
    for mine, theirs, plain in zip(found, adapted.outputs, ours(adapted.folder), strict=True):
        assert (plain - theirs).abs().max() > 0.1
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_scales_and_several_files(adapted, tmp_path):
    """Halves add up, and one with the opposite sign takes them away."""
    path = tmp_path / "lora.safetensors"
    diffusers_file(adapted, path)
    plain = ours(adapted.folder)
    for loras, wanted in (
        ((f"{path}:0.5", f"{path}:0.5"), adapted.outputs),
        ((str(path), f"{path}:-1"), plain),
    ):
        for mine, theirs in zip(ours(adapted.folder, *loras), wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_half_precision_takes_a_lora_too(adapted, tmp_path):
    path = tmp_path / "lora.safetensors"
    kohya_file(adapted, path)
    spec = pipeline_of(adapted.folder, str(path))
    half, full = (
        load(spec, dtype=dtype, superres=False).inpainting for dtype in (torch.float16, torch.float32)
    )
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float16}
    for (name, a), b in zip(half.named_parameters(), full.parameters(), strict=True):
        torch.testing.assert_close(a.float(), b, rtol=2e-3, atol=2e-4, msg=name)


def test_the_files_are_told_and_identify_the_model(adapted, tmp_path):
    for name in ("a", "b"):
        diffusers_file(adapted, tmp_path / f"{name}.safetensors")
    choice = ModelChoice(checkpoint=str(adapted.folder), lora=(f"{tmp_path}/a.safetensors:0.5",))
    spec = choice.resolve()
    assert spec.name == "model+a"
    models = load(spec, superres=False)
    assert models.info["inpainting"]["loras"] == [{"file": "a.safetensors", "scale": 0.5}]
    first = identify(spec, False)["inpainting"]["loras"]
    assert first[0]["scale"] == 0.5 and len(first[0]["sha256"]) == 64
    assert "loras" not in identify(ModelChoice(checkpoint=str(adapted.folder)).resolve(), False)["inpainting"]
    # The weights' file itself stays as it was.
    for mine, theirs in zip(ours(adapted.folder), ours(adapted.folder), strict=True):
        assert torch.equal(mine, theirs)


def test_what_does_not_fit_is_named(adapted, tmp_path):
    path = tmp_path / "lora.safetensors"
    kohya_file(adapted, path)
    weights = load_file(path)
    some = "lora_unet_conv_in"
    wide = torch.zeros(RANK, 4, 3, 3)
    changes: dict[str, Any] = {
        "is [16, 36] there, [16, 81] in the model: it is for another model": {
            f"{some}.lora_down.weight": wide
        },
        "only one of the two matrices": {f"{some}.lora_up.weight": None},
        "has weights for unet_strange, which this model does not have": {
            "lora_unet_strange.lora_up.weight": torch.zeros(1, 1)
        },
        "has x.hada_w1_a; LoHa, LoKr and DoRA are not read": {"x.hada_w1_a": torch.zeros(1)},
        "is no LoRA that can be read here: it has other": {"other": torch.zeros(1)},
    }
    for says, change in changes.items():
        changed = {name: tensor for name, tensor in {**weights, **change}.items() if tensor is not None}
        save_file(changed, tmp_path / "bad.safetensors")
        with pytest.raises(UserError) as caught:
            ours(adapted.folder, f"{tmp_path}/bad.safetensors")
        assert says in str(caught.value) and "bad.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "path", "scale"),
    [
        ("a.safetensors", "a.safetensors", 1),
        ("a.safetensors:0.7", "a.safetensors", 0.7),
        ("a:b:-2", "a:b", -2),
        ("C:\\a.safetensors", "C:\\a.safetensors", 1),
    ],
)
def test_files_and_scales(text, path, scale):
    assert LoRAFile.parse(text) == LoRAFile(Path(path), scale)
    for bad in ("a:1e9", "a:nan", ":1"):
        with pytest.raises(UserError, match="give FILE or FILE:SCALE"):
            LoRAFile.parse(bad)


@pytest.mark.parametrize("name", ["sd1-inpainting", "sd2-base", "x4-upscaler"])
def test_layers_have_diffusers_names(name):
    """`unet_modules` is `unet_key` the other way, for every layer of the public models."""
    prefix = "model.diffusion_model."
    names = [key.removeprefix(prefix) for key in layout(name) if key.startswith(prefix)]
    modules = unet_modules(names)
    assert len(modules) == sum(key.endswith(".weight") for key in names)
    theirs = {f"{module}.weight": None for module in modules}
    for module, key in modules.items():
        assert unet_key(f"{module}.weight", theirs) == key
