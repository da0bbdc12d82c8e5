"""NUWA-LIP as an inpainting method: a square of 256 px, new in the cells of 8x8 px that the mask touches."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from hdpainter.baselines.nuwa_lip.dfvqgan import any_pool
from hdpainter.baselines.nuwa_lip.mps2s import MPS2S
from hdpainter.baselines.nuwa_lip.transformer import Decoding
from hdpainter.baselines.square import SquareInpainter, check_inputs, squeeze, squeeze_mask
from hdpainter.images import Pixels
from hdpainter.masks import Mask
from hdpainter.prompts import full_prompt, words_cut
from hdpainter.settings import NuwaLipMethod
from ldm.checkpoint import read_state_dict
from ldm.util import UserError


class NuwaLip(SquareInpainter):
    """NUWA-LIP's network, in eval mode. Its squares are the autoencoder's, known region and all."""

    def __init__(self, network: MPS2S):
        self.network = network

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.network.image_bos_emb.device

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return next(p.dtype for p in self.network.transformer_dec.parameters() if p.dim() == 2)

    @torch.no_grad()
    def squares(
        self,
        images: Sequence[Pixels],
        masks: Sequence[Mask],
        prompts: Sequence[str],
        seeds: Sequence[int],
        method: NuwaLipMethod | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        check_inputs(images, masks, prompts, seeds)
        method = method or NuwaLipMethod()
        settings = method.nuwa_lip
        net, device = self.network, self.device
        picture = torch.cat([squeeze(image, net.img_size) for image in images]).to(device)
        mask = torch.cat([squeeze_mask(mask, net.img_size) for mask in masks]).bool().to(device)
        texts = [full_prompt(prompt, method.prompts.positive) for prompt in prompts]
        tokens = open_clip.tokenize(texts, net.encoder.context_length).to(device)
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
        return self._best(samples, tokens)

    def words_cut(self, prompt: str) -> int:
        return words_cut(prompt)

    def _best(self, samples: list[Tensor], tokens: Tensor) -> Tensor:
        """Of each picture [B, 3, S, S] the sample that is most like its caption."""
        if len(samples) == 1:
            return samples[0]
        likeness = torch.stack([self.network.similarity(sample, tokens) for sample in samples])
        return torch.stack([samples[best][row] for row, best in enumerate(likeness.argmax(dim=0).tolist())])


def check_file(path: Path) -> None:
    """Raise UserError if the file is the autoencoder's, which has one of its own."""
    weights = read_state_dict(path)
    if "encoder.conv_in.conv.weight" in weights and "image_bos_emb" not in weights:
        raise UserError(
            f"{path} is the DF-VQGAN alone: give a file of the whole model, such as epoch140-chunk-0.pth"
        )


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
