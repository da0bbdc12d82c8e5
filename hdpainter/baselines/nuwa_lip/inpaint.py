"""NUWA-LIP as an inpainting method: a square of 256 px, new in the cells of 8x8 px that the mask touches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch import Tensor

from hdpainter.baselines.loading import load_network
from hdpainter.baselines.nuwa_lip.dfvqgan import any_pool
from hdpainter.baselines.nuwa_lip.mps2s import MPS2S
from hdpainter.baselines.nuwa_lip.transformer import Decoding
from hdpainter.baselines.square import check_inputs, squeeze, squeeze_mask, stretch
from hdpainter.images import Pixels
from hdpainter.masks import Mask
from hdpainter.models.registry import find_checkpoint
from ldm.checkpoint import read_state_dict
from ldm.util import UserError


@dataclass(frozen=True)
class NuwaLipSettings:
    """How to sample; the published program's, but for `samples`, of which it takes 2.

    top_k: a code is drawn among so many of the likeliest; 1: always the likeliest.
    temperature: of the draw; below 1 the likelier codes are favoured more.
    samples: pictures that are made, of which CLIP takes the one most like the prompt.
    """

    top_k: int = 128
    temperature: float = 1.0
    samples: int = 1

    def __post_init__(self) -> None:
        for name in ("top_k", "samples"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give 1 or more")
        if not self.temperature > 0:
            raise UserError(f"temperature is {self.temperature}: give a number above 0")


class NuwaLip:
    """NUWA-LIP's network, in eval mode."""

    def __init__(self, network: MPS2S):
        self.network = network

    @classmethod
    def load(
        cls,
        file: str | Path = "epoch140-chunk-0.pth",
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> "NuwaLip":
        """The network with the weights of a checkpoint, which is sought as all are.

        file: by default the one fine-tuned on MSCOCO. Its public links ended in March 2026.
        dtype: of the transformers (see `MPS2S.dtype_policy`); None: float16 on a GPU, else float32.
        Raises UserError where the file is missing, damaged or another model's.
        """
        path = find_checkpoint(file)
        weights = read_state_dict(path)
        if "encoder.conv_in.conv.weight" in weights and "image_bos_emb" not in weights:
            raise UserError(f"{path} is the DF-VQGAN alone: give a file of the whole model, such as {file}")
        return cls(load_network(path, "nuwa-lip.yaml", device, dtype))

    @torch.no_grad()
    def __call__(
        self,
        images: Sequence[Pixels],
        masks: Sequence[Mask],
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: NuwaLipSettings | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Image.Image]:
        """Fill the masks with what the prompts say.

        images: uint8 [H, W, 3] each, of any size. masks: bool [H, W] each, True = fill.
        prompts: of which CLIP's 77 tokens are read. seeds: one per image; its result does not depend on the
        others.
        progress: called with (step, steps) after each code that is drawn.
        Returns pictures of the images' sizes, enlarged from 256 px; the known region is the autoencoder's, for
        the caller to paste. Raises UserError for an empty mask, or one of another size than its image.
        """
        check_inputs(images, masks, prompts, seeds)
        settings = settings or NuwaLipSettings()
        net, device = self.network, self.network.image_bos_emb.device
        picture = torch.cat([squeeze(image, net.img_size) for image in images]).to(device)
        mask = torch.cat([squeeze_mask(mask, net.img_size) for mask in masks]).bool().to(device)
        tokens = open_clip.tokenize(list(prompts), net.encoder.context_length).to(device)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        masked = picture.masked_fill(mask, 0)  # mid-grey
        codes, skips = net.vqgan.encode(masked, mask)
        cells = any_pool(mask, net.vae_patch_size)
        decoding = Decoding(net.transformer_dec, net.memory(codes, cells, masked, tokens))

        def choose(logits: Tensor, rows: list[int]) -> Tensor:
            return draw(logits, [generators[row] for row in rows], settings.top_k, settings.temperature)

        samples = []
        for sample in range(settings.samples):
            decoding.restart()
            report = progress and partial(_report, progress, sample, settings.samples)
            filled = net.generate(codes, cells, decoding, choose, report)
            samples.append(net.vqgan.decode(filled, skips))
        best = self._best(samples, tokens)
        return [stretch(square, image.shape[:2]) for square, image in zip(best, images, strict=True)]

    def _best(self, samples: list[Tensor], tokens: Tensor) -> Tensor:
        """Of each picture [B, 3, S, S] the sample that is most like its caption."""
        if len(samples) == 1:
            return samples[0]
        likeness = torch.stack([self.network.similarity(sample, tokens) for sample in samples])
        return torch.stack([samples[best][row] for row, best in enumerate(likeness.argmax(dim=0).tolist())])


def _report(progress: Callable[[int, int], None], before: int, samples: int, step: int, steps: int) -> None:
    progress(before * steps + step, samples * steps)


def draw(logits: Tensor, generators: Sequence[torch.Generator], top_k: int, temperature: float) -> Tensor:
    """A code for each row of logits [b, vocabulary], drawn by its own generator among the `top_k` likeliest.

    On the CPU, so that a seed means the same on every device; int64 [b].
    """
    values, codes = logits.float().cpu().topk(min(top_k, logits.shape[-1]))
    shares = (values / temperature).softmax(dim=-1)
    places = [
        torch.multinomial(row, 1, generator=generator)
        for row, generator in zip(shares, generators, strict=True)
    ]
    return codes.gather(1, torch.stack(places))[:, 0]
