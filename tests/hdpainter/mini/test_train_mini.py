"""Training of the miniatures: resuming, and exports that are the models they claim to be."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import distributed

from hdpainter.mini.train import load_config, run
from hdpainter.mini.training.autoencoder import AutoencoderTraining
from hdpainter.mini.training.base import Training, model_part
from hdpainter.mini.training.clip import ClipTraining, text_features
from hdpainter.mini.training.inpainting import InpaintingTraining
from hdpainter.mini.training.upscaler import UpscalerTraining
from ldm.checkpoint import read_state_dict
from ldm.util import UserError

CONFIGS = Path(__file__).parents[3] / "configs"
BUDGET = {"steps": 100, "minutes": 10.0, "matrix_lr": 0.01}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def autoencoder(cache):
    torch.manual_seed(0)
    config = str(CONFIGS / "models/mini-inpainting.yaml")
    return AutoencoderTraining(
        config,
        cache,
        size=64,
        scenes=4,
        held_out=2,
        crop_sizes=(32,),
        crop_weights=(1.0,),
        pixels=2048,
        workers=1,
        **BUDGET,
    )


def test_exported_autoencoder_has_the_configs_scale_and_reconstructs_alike(autoencoder):
    latents, pictures = autoencoder.eval().reconstruct()
    exported = model_part(str(CONFIGS / "models/mini-inpainting.yaml"), "first_stage_config").eval()
    exported.load_state_dict(autoencoder.weights())
    posterior = exported.encode(autoencoder.held_out)
    assert torch.allclose((posterior.mean * 0.18215).std(), torch.tensor(1.0), atol=1e-3)
    assert torch.allclose(exported.decode(posterior.mean), pictures, atol=1e-4)
    original = autoencoder.network.autoencoder.encode(autoencoder.held_out)
    assert torch.allclose(posterior.std / posterior.mean.std(), original.std / latents.std(), rtol=1e-3)


def test_training_the_decoder_alone_leaves_the_latents_as_they_are(cache, autoencoder, tmp_path):
    start = tmp_path / "start.pt"
    torch.save(autoencoder.weights(), start)
    config = str(CONFIGS / "models/mini-inpainting.yaml")
    crops = {"crop_sizes": (32,), "crop_weights": (1.0,), "pixels": 2048}
    options = {"size": 64, "scenes": 4, "held_out": 2, "workers": 1} | crops | BUDGET
    training = AutoencoderTraining(config, cache, start=str(start), decoder_noise=0.5, **options)
    x = training.held_out
    before, clean = training.network.autoencoder.encode(x).mean, training.decoder_loss(x)
    optimizer = training.configure_optimizers()
    for _ in range(3):
        optimizer.zero_grad()
        training.loss(x)[0].backward()
        optimizer.step()
    assert not torch.equal(training.decoder_loss(x), clean)
    training.update_average()
    state = training.weights()
    changed = {
        name for name, tensor in read_state_dict(start).items() if not torch.equal(tensor, state[name])
    }
    assert changed and all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    assert torch.equal(training.network.autoencoder.encode(x).mean, before)


@pytest.fixture(scope="module")
def clip(cache):
    torch.manual_seed(0)
    return ClipTraining(
        str(CONFIGS / "models/mini-clip.json"),
        cache,
        size=64,
        scenes=4,
        held_out=2,
        batch=4,
        workers=1,
        **BUDGET,
    )


def test_folding_zeroes_the_start_token_and_keeps_what_the_heads_read(clip):
    loss, logs = clip.loss(clip.data.batch(np.random.default_rng(0)))
    assert torch.isfinite(loss)
    assert {"contrastive", "words", "categories"} <= set(logs)
    tokens = clip.tokenize(["a red car", "two donuts on sand"])
    model, head = clip.network.clip, clip.network.heads.words
    before = head(text_features(model, tokens)[0])
    clip.fold()
    features = text_features(model, tokens)[0]
    assert features[:, 0].abs().max() < 1e-4
    assert features[:, 1:].abs().mean() > 0.1
    assert torch.allclose(head(features), before, atol=1e-3)


def test_the_embedder_gives_the_features_that_were_trained(clip):
    embedder = model_part(str(CONFIGS / "models/mini-inpainting.yaml"), "cond_stage_config")
    embedder.load_state_dict(clip.weights(), strict=False)
    texts = ["a car", "a photo of a teddy bear and a kite under the night sky", ""]
    trained = text_features(clip.average.clip.eval(), clip.tokenize(texts))[0]
    assert torch.allclose(embedder.encode(texts), trained, atol=1e-5)


@pytest.fixture(scope="module")
def parts(tmp_path_factory, autoencoder, clip):
    folder = tmp_path_factory.mktemp("parts")
    files = {}
    for name, training in (("first_stage_model", autoencoder), ("cond_stage_model", clip)):
        files[name] = str(folder / f"{name}.pt")
        torch.save(training.weights(), files[name])
    return files


INPAINTING = str(CONFIGS / "models/mini-inpainting.yaml")
SMALL = {"size": 64, "scenes": 4, "crops": {64: [1, 3, 4]}, "held_out": 1, "workers": 1} | BUDGET


def test_inpainting_batches_hide_the_hole_and_weights_make_the_model(parts):
    config = INPAINTING
    training = InpaintingTraining(config, parts, full=0.0, text_to_image=0.0, **SMALL)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 64, 64, 3), np.uint8)
    masks = np.zeros((2, 64, 64), bool)
    masks[:, 16:48, 16:48] = True
    hidden = images.copy()
    hidden[masks] = 0
    one, two = training.conditions(images, masks), training.conditions(hidden, masks)
    assert torch.equal(one["masked_image_latent"], two["masked_image_latent"])
    assert not torch.equal(one["jpg_latent"], two["jpg_latent"])
    assert one["mask"].sum() == 2 * 16
    batch = next(training.batches())
    assert batch["slots"].shape == (3, 77) and batch["txt_features"].shape == (3, 77, 48)
    loss, logs = training.loss(batch)
    assert torch.allclose(loss, logs["denoising"] + 0.1 * logs["naming"])
    loss.backward()
    assert all(p.grad is not None for p in training.network.parameters())
    finished = model_part(config)
    missing, unexpected = finished.load_state_dict(training.weights(), strict=False)
    buffers = dict(finished.named_buffers())
    assert set(missing) <= set(buffers)
    assert all(".visual." in k or k.endswith(("logit_scale", "text_projection")) for k in unexpected)
    for a, b in zip(
        finished.first_stage_model.parameters(), training.ldm.first_stage_model.parameters(), strict=True
    ):
        assert torch.equal(a, b)


def test_a_training_begins_with_the_unet_of_another_model(parts, tmp_path):
    torch.manual_seed(0)
    config, options = INPAINTING, dict(SMALL)
    first = InpaintingTraining(config, parts, **options)
    torch.save(first.weights(), tmp_path / "whole.pt")
    second = InpaintingTraining(config, parts, start=str(tmp_path / "whole.pt"), **options)
    for name, tensor in second.weights().items():
        assert torch.equal(tensor, first.weights()[name]), name
    whole = {name: str(tmp_path / "whole.pt") for name in parts}  # parts of a whole model
    for name, tensor in InpaintingTraining(config, whole, **options).weights().items():
        if not name.startswith("model."):
            assert torch.equal(tensor, first.weights()[name]), name
    with pytest.raises(UserError, match="does not fit the config's UNet"):
        InpaintingTraining(config, parts, start=parts["first_stage_model"], **options)

    options["start"] = str(tmp_path / "whole.pt")
    mixed = InpaintingTraining(config, parts, start_share=0.25, **options)
    with torch.no_grad():
        for tensor in mixed.average.parameters():
            tensor += 1
    name = "diffusion_model.time_embed.0.weight"
    expected = first.network.state_dict()[name] + 0.75
    assert torch.allclose(mixed.weights()[f"model.{name}"], expected)
    with mixed.averaged() as ldm:  # what samples and held-out losses see
        assert torch.allclose(ldm.model.state_dict()[name], expected)
    assert torch.equal(mixed.network.state_dict()[name], first.network.state_dict()[name])
    for share in (1.0, -0.1):
        with pytest.raises(UserError, match="start_share"):
            InpaintingTraining(config, parts, start_share=share, **options)
    with pytest.raises(UserError, match="needs a `start`"):
        InpaintingTraining(config, parts, start_share=0.5, **options | {"start": None})


@pytest.fixture(scope="module")
def upscaler(cache, parts):
    config = str(CONFIGS / "models/mini-upscaler.yaml")
    own = {"cond_stage_model": parts["cond_stage_model"]}
    return UpscalerTraining(
        config, own, cache, size=64, scenes=4, crops={64: [1, 2, 4]}, held_out=1, workers=1, **BUDGET
    )


def test_upscaler_learns_from_reduced_pictures(upscaler):
    batch = next(upscaler.batches())
    assert batch["lr"].shape == (2, 16, 16, 3)
    assert batch["jpg_latent"].shape == (2, 4, 16, 16)
    loss, _ = upscaler.loss(batch)
    assert torch.isfinite(loss)


def test_a_report_draws_the_same_and_leaves_the_trainings_noise_alone(upscaler):
    with torch.no_grad():
        torch.manual_seed(1)
        figures = upscaler.evaluate()
        after = torch.rand(3)
        torch.manual_seed(2)
        assert upscaler.evaluate() == figures
    assert not torch.equal(torch.rand(3), after)


def test_parts_of_another_model_are_refused(cache, parts, tmp_path):
    def message(**files):
        config = str(CONFIGS / "models/mini-upscaler.yaml")
        with pytest.raises(UserError) as error:
            UpscalerTraining(config, files, cache, size=64, scenes=4, crops={64: [1, 2, 4]}, **BUDGET)
        assert "\n" not in str(error.value)
        return str(error.value)

    file = parts["cond_stage_model"]
    text = message(first_stage_model=file)
    assert file in text and "first_stage_model" in text and "missing" in text and "unexpected" in text
    assert "of another shape" in message(first_stage_model=parts["first_stage_model"])  # f8 instead of f4
    assert "'unet' is not one of first_stage_model" in message(unet=file)


def test_timesteps_are_the_schedules(monkeypatch):
    training = InpaintingTraining(INPAINTING, {}, **SMALL)
    monkeypatch.setattr(torch, "rand", lambda count, device: torch.full((count,), 1 - 2.0**-24))
    assert training.timesteps(2).tolist() == [999, 999]


def test_text_to_image_comes_first_and_then_masks(parts):
    training = InpaintingTraining(INPAINTING, parts, text_to_image=0.5, **SMALL)
    with torch.no_grad():
        for (
            p
        ) in training.network.parameters():  # the last layers begin at zero, and all outputs would be alike
            p.add_(0.02 * torch.randn_like(p))
    batch = next(training.batches())
    nothing = batch | {"mask": torch.ones_like(batch["mask"])}
    nothing["masked_image_latent"] = training.blank(64).half().expand(3, -1, -1, -1)
    hidden = batch | {"masked_image_latent": torch.randn_like(batch["masked_image_latent"])}

    def losses():
        for one in (batch, nothing, hidden):
            torch.manual_seed(0)
            yield training.loss(one)[0].item()

    whole, same, also = losses()
    assert whole == same == also
    training.elapsed = 0.6 * 60 * training.minutes
    masked, filled, other = losses()
    assert filled == whole
    assert masked != whole and masked != other


def test_figures_of_the_attention_are_those_of_a_word_and_its_object(parts):
    training = InpaintingTraining(INPAINTING, parts, **SMALL | {"held_out": 3, "size": 128})
    with torch.no_grad():
        figures = training.evaluate()
    assert set(figures) == {"right", "empty", "wrong", "start_share", "mid", "auc", "latent_std"}
    assert 0 <= figures["auc"] <= 1


def test_a_rate_is_held_and_then_falls(parts, monkeypatch):
    training = InpaintingTraining(INPAINTING, {}, hold=0.5, **SMALL)
    optimizer = training.configure_optimizers()
    monkeypatch.setattr(training, "optimizers", lambda: optimizer)
    rates = []
    for share in (0.001, 0.1, 0.5, 0.75, 1.0):
        training.elapsed = share * 60 * training.minutes
        training.on_train_batch_start(None, 0)
        rates.append(optimizer.param_groups[0]["lr"] / BUDGET["matrix_lr"])
    assert rates[0] < 0.2
    assert rates[1:] == pytest.approx([1, 1, 0.51, 0.02])


def test_a_run_goes_on_where_it_stopped(tmp_path, cache, monkeypatch):
    starts = []

    def on_train_start(self):
        Training.on_train_start(self)
        weights = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        starts.append((self.global_step, weights, torch.rand(3)))

    monkeypatch.setattr(AutoencoderTraining, "on_train_start", on_train_start, raising=False)
    config = load_config(CONFIGS / "train/mini-autoencoder-f8.yaml", [], gpu=False)
    small = {
        "cache": str(cache),
        "size": 64,
        "scenes": 4,
        "held_out": 2,
        "crop_sizes": [32],
        "crop_weights": [1.0],
        "pixels": 1024,
        "workers": 1,
        "config": str(CONFIGS / "models/mini-inpainting.yaml"),
    }
    config = OmegaConf.merge(config, {"training": {"params": small | {"steps": 2}}})
    (tmp_path / "evaluation.csv").touch()  # of a run that died as it had just made it
    run(config, tmp_path, gpu=False)
    first = json.loads((tmp_path / "model.json").read_text())
    assert first["steps"] == 2
    stopped = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    config.training.params.steps = 5
    run(config, tmp_path, gpu=False)
    (begun, _, noise), (resumed, weights, other_noise) = starts
    assert (begun, resumed) == (0, 2)
    assert stopped.keys() == weights.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in stopped.items())
    assert not torch.equal(noise, other_noise)
    assert (tmp_path / "evaluation.csv").read_text().startswith("step,minutes,")
    card = json.loads((tmp_path / "model.json").read_text())
    assert card["steps"] == 5
    assert card["minutes"] >= first["minutes"]
    assert card["held_out"]["psnr"] > 0
    assert all(t.dtype == torch.float16 for t in read_state_dict(tmp_path / "model.safetensors").values())
    assert list(tmp_path.glob("sheet-*.png"))
    assert not list(tmp_path.glob("*.part"))


def test_a_run_resumed_after_the_fold_leaves_the_text_tower_alone(tmp_path, cache):
    small = {"cache": str(cache), "size": 64, "scenes": 4, "held_out": 2, "batch": 4, "workers": 1}
    small |= {"config": str(CONFIGS / "models/mini-clip.json"), "fold_at": 0.3, "steps": 3}
    config = load_config(CONFIGS / "train/mini-clip.yaml", [], gpu=False)
    config = OmegaConf.merge(config, {"training": {"params": small}})
    weights = []
    for steps in (3, 5):
        config.training.params.steps = steps
        run(config, tmp_path, gpu=False)
        weights.append(torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"])
    before, after = weights
    assert before["folded"]
    finished = ("transformer.", "token_embedding.", "ln_final.", "positional_embedding")
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert "network.clip.visual.proj" in changed and "network.clip.text_projection" in changed
    assert not {name for name in changed if name.removeprefix("network.clip.").startswith(finished)}
    assert list(tmp_path.glob("sheet-*.png"))


@pytest.mark.parametrize("override, seed", [([], 7), (["training.params.seed=3"], 3)])
def test_the_trainers_seed_is_that_of_the_batches(tmp_path, cache, override, seed):
    small = {"cache": cache, "size": 64, "scenes": 4, "held_out": 2, "crop_sizes": "[32]", "steps": 1}
    small |= {"crop_weights": "[1.0]", "pixels": 1024, "workers": 1}
    overrides = [f"training.params.{name}={value}" for name, value in small.items()]
    config = load_config(
        CONFIGS / "train/mini-autoencoder-f8.yaml", [*overrides, "trainer.seed=7", *override], gpu=False
    )
    config.training.params.config = str(CONFIGS / "models/mini-inpainting.yaml")
    run(config, tmp_path, gpu=False)
    assert json.loads((tmp_path / "model.json").read_text())["training"]["params"]["seed"] == seed


class CheckedInpainting(InpaintingTraining):
    """Asserts in each process that its batch is its own and that the gradient is the mean of all batches'."""

    def training_step(self, batch, index):
        state = torch.get_rng_state()
        loss = self.loss(batch)[0]
        self.own = torch.autograd.grad(loss, list(self.network.parameters()))
        losses = [torch.zeros_like(loss) for _ in range(self.trainer.world_size)]
        distributed.all_gather(losses, loss.detach())
        assert len(losses) == 2 and losses[0] != losses[1]
        torch.set_rng_state(state)
        return super().training_step(batch, index)

    def on_after_backward(self):
        for p, gradient in zip(self.network.parameters(), self.own, strict=True):
            distributed.all_reduce(gradient)
            assert torch.allclose(p.grad, gradient / 2, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path, parts):
    """The gradient is that of both batches, and one process writes."""
    for file in parts.values():
        Path(file).with_suffix(".json").write_text("{}")
    params = {
        "steps": 3,
        "workers": 1,
        "held_out": 1,
        "size": 64,
        "scenes": 4,
        "parts.first_stage_model": parts["first_stage_model"],
        "parts.cond_stage_model": parts["cond_stage_model"],
        "crops": "{128: [0, 1, 1], 256: [0, 1, 1], 64: [1, 2, 4]}",
    }
    config = "configs/train/mini-inpainting.yaml"
    command = [sys.executable, "-m", "hdpainter.mini.train", config, "--run-dir", tmp_path]
    command += [f"training.params.{name}={value}" for name, value in params.items()]
    command += [f"training.target={__name__}.CheckedInpainting", "trainer.precision=32-true"]
    command += ["trainer.processes=2", "--threads", "1"]
    subprocess.run(list(map(str, command)), cwd=CONFIGS.parent, check=True)
    assert json.loads((tmp_path / "model.json").read_text())["steps"] == 3
    assert (tmp_path / "evaluation.csv").read_text().count("\n") == 2
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_a_compiled_step_is_the_same(parts):
    """The scores that the loss reads are found in a compiled UNet too, and it is compiled once."""
    training = InpaintingTraining(INPAINTING, parts, **SMALL)
    batch = next(training.batches())

    def gradient():
        torch.manual_seed(0)
        loss, logs = training.loss(batch)
        return loss, logs["naming"], torch.autograd.grad(loss, list(training.network.parameters()))

    loss, naming, expected = gradient()
    torch._dynamo.reset()
    training.network.to(memory_format=torch.channels_last)
    training.ldm.model.diffusion_model.compile(backend="aot_eager")  # captured as for a GPU
    for _ in range(2):
        again, naming_again, found = gradient()
        assert torch.allclose(again, loss, rtol=1e-4) and torch.allclose(naming_again, naming, rtol=1e-4)
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, rtol=1e-2, atol=1e-5 + 1e-3 * b.abs().max().item())
    frames = torch._dynamo.utils.counters["frames"]
    assert frames["total"] == frames["ok"] == 1


def test_only_diffusion_models_train_in_several_processes(tmp_path, cache):
    overrides = ["trainer.processes=2", "training.params.size=64", "training.params.scenes=4"]
    config = load_config(CONFIGS / "train/mini-autoencoder-f8.yaml", overrides, gpu=False)
    config.training.params |= {
        "cache": str(cache),
        "workers": 1,
        "config": str(CONFIGS / "models/mini-inpainting.yaml"),
    }
    with pytest.raises(UserError, match="in one process"):
        run(config, tmp_path, gpu=False)
