"""Training through Lightning: the losses fall, averages follow, conditionings drop, runs resume."""

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from ldm.util import UserError, instantiate_from_config
from tests.ldm import tiny
from tests.support import randn

KL_LOSS = {"target": "ldm.modules.losses.ReconstructionKLLoss", "params": {"kl_weight": 1e-6}}


def batch(size=4):
    """A batch as the data sets give it: channels last, in [-1, 1]; the mask is 1 in a corner."""
    images = randn(1, (size, 32, 32, 3)).tanh()
    mask = torch.zeros(size, 32, 32, 1)
    mask[:, :12, :20] = 1
    return {
        "jpg": images,
        "txt": ["cat", "dog", "car", "boat"][:size],
        "mask": mask,
        "masked_image": images * (1 - mask),
        "lr": images[:, ::4, ::4],
    }


def latent_batch(size=8):
    return {"jpg_latent": randn(2, (size, 4, 8, 8)), "txt": ["cat", "dog"] * (size // 2)}


def fit(model, data, steps, folder, **options):
    """Train for `steps` in all on one batch, or on a list of batches in turn."""
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings |= {"accelerator": "cpu", "max_steps": steps, "num_sanity_val_steps": 0}
    ckpt_path = options.pop("ckpt_path", None)
    trainer = pl.Trainer(default_root_dir=folder, enable_checkpointing=False, **settings | options)
    batches = data if isinstance(data, list) else [data]
    loaders = [DataLoader(list(batches) * n, batch_size=None) for n in (100, 1)]
    trainer.fit(model, *loaders, ckpt_path=ckpt_path)
    return trainer


def loss_at(model, data, seed=0, repeats=8):
    """The loss of a batch under fixed timesteps and noise."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return sum(model.shared_step(data)[0].item() for _ in range(repeats)) / repeats


def step(model, data, optimizer):
    optimizer.zero_grad()
    loss, _ = model.shared_step(data)
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("parameterization", ["eps", "v", "x0"])
def test_a_diffusion_model_learns_a_batch(parameterization):
    unet_params = {"channel_mult": [1], "model_channels": 16, "num_groups": 8}
    model = tiny.build(parameterization=parameterization, unet_params=unet_params)
    model.learning_rate = 5e-3
    # One picture, twice: all of eps, v and x_0 can then be computed from x_t.
    data = {"jpg_latent": 2 * randn(2, (1, 4, 4, 4)).expand(8, -1, -1, -1), "txt": ["cat"] * 8}
    before = loss_at(model, data)
    optimizer = model.configure_optimizers()
    for _ in range(30):
        step(model, data, optimizer)
    assert loss_at(model, data) < before / 2


def test_an_autoencoder_learns_a_batch(tmp_path):
    torch.manual_seed(0)
    model = instantiate_from_config(
        {
            **tiny.AUTOENCODER,
            "params": {**tiny.AUTOENCODER["params"], "lossconfig": KL_LOSS, "image_key": "jpg"},
        }
    )
    model.learning_rate = 2e-3
    torch.manual_seed(0)
    data = {"jpg": (torch.rand(4, 1, 1, 3) * 2 - 1).expand(-1, 16, 16, -1)}
    before = loss_at(model, data, repeats=2)
    fit(model, data, 150, tmp_path, limit_val_batches=0)
    assert loss_at(model, data, repeats=2) < before / 2


def test_loss_is_the_distance_between_output_and_target():
    for loss_type, power in (("l1", 1), ("l2", 2)):
        for parameterization in ("eps", "v", "x0"):
            model = tiny.Oracle(
                lambda x, t, c: 0.5 * x, loss_type=loss_type, parameterization=parameterization
            )
            x, noise, t = randn(0, (3, 4, 2, 2)), randn(1, (3, 4, 2, 2)), torch.tensor([1, 400, 999])
            loss, logs = model.eval().p_losses(x, None, t, noise)
            x_t = model.q_sample(x, t, noise)
            expected = (model.apply_model(x_t, t) - model.target(x, noise, t)).abs() ** power
            assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)
            assert set(logs) == {"val/loss_simple"}


# --- moving averages ---


def test_moving_average_follows_the_weights(tmp_path):
    model = tiny.build(use_ema=True, unet_params={"channel_mult": [1]})
    model.learning_rate = 1e-2
    start = [p.detach().clone() for p in model.model.parameters()]
    fit(model, latent_batch(), 3, tmp_path)
    end = [p.detach().clone() for p in model.model.parameters()]
    with model.ema_scope():
        averages = [p.detach().clone() for p in model.model.parameters()]
    moved = [i for i, (a, b) in enumerate(zip(start, end, strict=True)) if not torch.equal(a, b)]
    assert len(moved) > len(start) / 2
    for i in moved:
        travelled, behind = (end[i] - start[i]).norm(), (end[i] - averages[i]).norm()
        assert 0 < behind < travelled
    for now, then in zip(model.model.parameters(), end, strict=True):
        assert torch.equal(now, then)


def test_weights_come_back_after_an_error():
    model = tiny.build(use_ema=True)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(1.0)
    before = [p.detach().clone() for p in model.model.parameters()]
    with pytest.raises(KeyboardInterrupt), model.ema_scope():
        assert not torch.equal(next(model.model.parameters()), before[0])
        raise KeyboardInterrupt
    assert all(torch.equal(a, b) for a, b in zip(before, model.model.parameters(), strict=True))


def test_validation_logs_both_losses(tmp_path):
    model = tiny.build(use_ema=True, unet_params={"channel_mult": [1]})
    model.learning_rate = 1e-2
    trainer = fit(model, latent_batch(), 2, tmp_path, limit_train_batches=2)
    assert {"train/loss_simple_epoch", "val/loss_simple", "val/loss_simple_ema"} <= set(
        trainer.callback_metrics
    )


# --- conditioning dropout ---


def test_conditionings_drop_at_their_rates():
    torch.manual_seed(0)
    rules = {"txt": {"p": 0.3}, "class": {"p": 0.1, "val": -1}}
    model = tiny.build(ucg_training=rules, unet_params={"channel_mult": [1]})
    n = 4000
    data = {"txt": [f"prompt {i}" for i in range(n)], "class": torch.arange(n), "other": torch.arange(n)}
    kept_text, kept_class = list(data["txt"]), data["class"].clone()
    dropped = model.augment(data)
    assert data["txt"] == kept_text and torch.equal(
        data["class"], kept_class
    )  # the loader's batch is untouched
    gone_text = torch.tensor([text == "" for text in dropped["txt"]])
    gone_class = dropped["class"] == -1
    assert all(new in ("", old) for new, old in zip(dropped["txt"], data["txt"], strict=True))
    assert torch.equal(dropped["class"][~gone_class], data["class"][~gone_class])
    assert torch.equal(dropped["other"], data["other"])
    for gone, p in ((gone_text, 0.3), (gone_class, 0.1), (gone_text & gone_class, 0.03)):  # independently
        assert abs(gone.float().mean() - p) < 4 * (p * (1 - p) / n) ** 0.5


@settings(max_examples=10, deadline=None)
@given(st.lists(st.text(), max_size=5), st.sampled_from([0.0, 1.0]), st.sampled_from([None, "nothing"]))
def test_certain_dropout(prompts, p, value):
    model = model_with_dropout(p, value)
    assert model.augment({"txt": prompts})["txt"] == ([value or ""] * len(prompts) if p else prompts)


def model_with_dropout(p, value):
    model = tiny.Oracle(lambda x, t, c: x)
    model.ucg_training = {"txt": {"p": p, "val": value}}
    return model


# --- what the models read from a batch ---


def test_inpainting_reads_mask_and_masked_image():
    model, data = tiny.inpainting(scale_factor=0.5), batch()
    torch.manual_seed(4)
    z, cond = model.get_input(data, "jpg")
    torch.manual_seed(4)
    channels_first = {k: data[k].permute(0, 3, 1, 2) for k in ("jpg", "masked_image")}
    expected, masked = (
        0.5 * model.first_stage_model.encode(channels_first[k]).sample() for k in ("jpg", "masked_image")
    )
    torch.testing.assert_close(z, expected)
    assert list(cond) == ["c_concat", "c_crossattn"]
    mask = torch.zeros(4, 1, 8, 8)
    mask[:, :, :3, :5] = 1  # the corner of 12 x 20 pixels, at a quarter of the size
    (concat,) = cond["c_concat"]
    assert torch.equal(concat[:, :1], mask)
    torch.testing.assert_close(concat[:, 1:], masked)
    assert torch.equal(cond["c_crossattn"][0], model.get_learned_conditioning(data["txt"]))
    assert model.shared_step(data)[0].isfinite()


def test_cached_latents_replace_images():
    model, data = tiny.inpainting(scale_factor=0.5), batch()
    cached = {"jpg_latent": randn(1, (4, 4, 8, 8)), "masked_image_latent": randn(2, (4, 4, 8, 8))}
    z, cond = model.get_input({"txt": data["txt"], "mask": data["mask"], **cached}, "jpg")
    assert torch.equal(z, 0.5 * cached["jpg_latent"])
    assert torch.equal(cond["c_concat"][0][:, 1:], 0.5 * cached["masked_image_latent"])


def test_upscaling_reads_the_small_image_and_adds_noise():
    model, data = tiny.upscaler(noise_level_key="level"), batch()
    level = torch.tensor([0, 20, 100, 349])
    torch.manual_seed(0)
    _, cond = model.get_input({**data, "level": level}, "jpg")
    (low,) = cond["c_concat"]
    assert torch.equal(cond["c_adm"], level) and low.shape == (4, 3, 8, 8)
    distance = (low - data["lr"].permute(0, 3, 1, 2)).flatten(1).std(1)
    assert (distance.diff() > 0).all() and distance[0] < 0.05
    assert model.shared_step({**data, "level": level})[0].isfinite()
    model.noise_level_key = None
    torch.manual_seed(0)
    levels = torch.cat([model.get_input(data, "jpg")[1]["c_adm"] for _ in range(20)])
    assert levels.min() >= 0 and levels.max() < 350 and len(levels.unique()) > 40


@pytest.mark.parametrize(
    "build, key", [(tiny.build, "txt"), (tiny.inpainting, "mask"), (tiny.upscaler, "lr")]
)
def test_what_a_batch_lacks_is_named(build, key):
    data = batch()
    del data[key]
    with pytest.raises(UserError, match=f"the batch has no '{key}'"):
        build().shared_step(data)


def test_scale_factor_from_the_first_batch(tmp_path):
    model = tiny.build(scale_by_std=True, unet_params={"channel_mult": [1]})
    data = latent_batch()
    data["jpg_latent"] = 7 * data["jpg_latent"]
    fit(model, [data, latent_batch()], 2, tmp_path)
    assert (model.get_latent(data, "jpg")).std().item() == pytest.approx(1.0, abs=1e-4)
    assert "scale_factor" in model.state_dict()


# --- optimisation ---


class Halving:
    """A learning-rate schedule in the form of SD's."""

    def schedule(self, step):
        return 0.5**step


def test_learning_rate_schedule(tmp_path):
    scheduler = {"target": f"{__name__}.Halving"}
    model = tiny.build(scheduler_config=scheduler, unet_params={"channel_mult": [1]})
    model.learning_rate = 1e-3
    trainer = fit(model, latent_batch(), 3, tmp_path)
    (group,) = trainer.optimizers[0].param_groups
    assert group["lr"] == pytest.approx(1e-3 / 8)


def test_only_what_is_trainable_changes(tmp_path):
    model = tiny.build(cond_stage_trainable=True, unet_params={"channel_mult": [1]})
    model.learning_rate = 1e-2
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fit(model, latent_batch(), 2, tmp_path)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert "cond_stage_model.table.weight" in changed
    assert any(name.startswith("model.diffusion_model") for name in changed)
    assert not any(name.startswith("first_stage_model") for name in changed)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    """2 steps, a checkpoint and 1 step more give the weights, averages and optimiser state of 3 steps."""

    class SameNoise(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            torch.manual_seed(trainer.global_step)

    def start():
        model = tiny.build(use_ema=True, unet_params={"channel_mult": [1]})
        model.learning_rate = 1e-2
        return model

    data, options = latent_batch(), {"callbacks": [SameNoise()]}
    straight, first, second = start(), start(), start()
    fit(straight, data, 3, tmp_path, **options)
    fit(first, data, 2, tmp_path, **options).save_checkpoint(tmp_path / "last.ckpt")
    trainer = fit(second, data, 3, tmp_path, ckpt_path=tmp_path / "last.ckpt", **options)
    assert trainer.global_step == 3
    state, expected = second.state_dict(), straight.state_dict()
    assert state["model_ema.num_updates"] == 3
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, msg=name)
    # The checkpoint is also one to start another training from.
    other = tiny.build(use_ema=True, unet_params={"channel_mult": [1]}, ckpt_path=str(tmp_path / "last.ckpt"))
    name = "model.diffusion_model.input_blocks.0.0.weight"
    assert torch.equal(other.state_dict()[name], first.state_dict()[name])


def test_autoencoder_averages_and_learns_its_logvar(tmp_path):
    params = {**tiny.AUTOENCODER["params"], "lossconfig": KL_LOSS, "image_key": "jpg"}
    params |= {"ema_decay": 0.9, "learn_logvar": True, "monitor": "val/rec_loss"}
    model = instantiate_from_config({**tiny.AUTOENCODER, "params": params})
    model.learning_rate = 1e-2
    trainer = fit(model, {"jpg": batch()["jpg"]}, 2, tmp_path, limit_train_batches=2)
    assert model.loss.logvar != 0 and model.model_ema.num_updates == 2
    assert {model.monitor, f"{model.monitor}_ema"} <= set(trainer.callback_metrics)
    weight = model.decoder.conv_out.weight
    trained = weight.detach().clone()
    with model.ema_scope():
        assert not torch.equal(weight, trained)
    assert torch.equal(weight, trained)
