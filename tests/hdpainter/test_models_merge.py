"""``hdpainter models merge``: fine-tune + (inpainting - base), tensor by tensor."""

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hdpainter.cli import main
from hdpainter.models.merge import add_difference
from hdpainter.models.recognise import STEM
from ldm.util import UserError

UNET, TEXT = "model.diffusion_model.", "cond_stage_model."


def weights(seed: int, channels: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {STEM: (8, channels, 3, 3), f"{UNET}out.2.weight": (4, 8), "first_stage_model.x.bias": (5,)}
    made = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    return made | {"betas": torch.full((3,), float(seed)), f"{TEXT}position_ids": torch.arange(4)}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder, with a fine-tune, an inpainting model and their base."""
    monkeypatch.chdir(tmp_path)
    save_file(weights(1, 4, torch.float16) | {"model_ema.x": torch.zeros(1)}, "a.safetensors")
    save_file(weights(2, 9) | {f"{TEXT}only": torch.ones(2)}, "b.safetensors")
    torch.save({"state_dict": weights(3, 4)}, "c.ckpt")
    return tmp_path


LINE = "models merge --add-difference a.safetensors --inpainting b.safetensors --base c.ckpt out.safetensors"


def test_the_difference_is_added(here, capsys):
    assert main(LINE.split()) == 0
    assert "wrote out.safetensors" in capsys.readouterr().out
    a, b, c, out = weights(1, 4, torch.float16), weights(2, 9), weights(3, 4), load_file("out.safetensors")
    assert out.keys() == b.keys() | {f"{TEXT}only"}
    for name in (f"{UNET}out.2.weight", "first_stage_model.x.bias"):
        torch.testing.assert_close(out[name], a[name].float() + b[name] - c[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        out[STEM][:, :4], a[STEM].float() + b[STEM][:, :4] - c[STEM], rtol=0, atol=1e-6
    )
    assert torch.equal(out[STEM][:, 4:], b[STEM][:, 4:])
    for name in ("betas", f"{TEXT}position_ids"):
        assert torch.equal(out[name], b[name])
    (here / "out.safetensors").unlink()
    assert main([*LINE.split(), "--dtype", "float16"]) == 0
    assert load_file("out.safetensors")[STEM].dtype == torch.float16
    assert main(LINE.split()) == 2 and "exists already" in capsys.readouterr().err


def test_models_of_different_layouts_are_refused(here):
    def message(**changed: dict[str, torch.Tensor]) -> str:
        files = {"a": weights(1, 4), "b": weights(2, 9), "c": weights(3, 4)} | changed
        for name, content in files.items():
            save_file(content, f"{name}.safetensors")
        with pytest.raises(UserError) as caught:
            add_difference(*(Path(f"{name}.safetensors") for name in "abc"), Path("out.safetensors"))
        assert not Path("out.safetensors").exists()
        return str(caught.value)

    assert "b.safetensors is no inpainting model" in message(b=weights(2, 4))
    assert "c.safetensors has" in message(c=weights(3, 9))
    less = weights(1, 4)
    del less[f"{UNET}out.2.weight"]
    assert f"a.safetensors lacks {UNET}out.2.weight" in message(a=less)
    with pytest.raises(UserError, match=r"must be named \.safetensors"):
        add_difference(Path("a"), Path("b"), Path("c"), Path("out.ckpt"))


def anonymous() -> int:
    """Bytes of this process's memory that no file is mapped to."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line)
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured by Linux's /proc")
def test_it_needs_the_memory_of_one_tensor(tmp_path):
    size, count = 40 * 2**20, 3  # bytes of a tensor, more than what the allocator keeps when it is freed
    for name, channels in (("a", 4), ("b", 9), ("c", 4)):
        large = {f"{UNET}{i}.weight": torch.ones(size // 4) for i in range(count)}
        save_file(large | {STEM: torch.ones(2, channels, 3, 3)}, tmp_path / f"{name}.safetensors")
    del large
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    peaks, done = [], threading.Event()

    def watch() -> None:
        while not done.wait(1e-4):
            peaks.append(anonymous())

    before = anonymous()
    watcher = threading.Thread(target=watch)
    watcher.start()
    add_difference(*paths, tmp_path / "out.safetensors")
    done.set()
    watcher.join()
    assert len(peaks) > count
    assert max(peaks) - before < 1.5 * size
