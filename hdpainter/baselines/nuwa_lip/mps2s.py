"""MP-S2S, the "multi-perspective sequence to sequence" network: codes of what is to be filled, one after another.

Two encoders and a text tower look at what is known, as codes, as pixels and as words; a decoder predicts the
codes of the masked cells in raster order. Names and shapes are those of the published checkpoints, which also
hold the DF-VQGAN (`vae`) and a CLIP that ranks samples (`clip_sim`).

Shapes: pictures [B, 3, H, W] in -1..1; codes int64 [B, h, w]; masks of cells bool [B, 1, h, w], True = to be
filled; positions of the decoder: a start token, then the cells in raster order but for the last.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import open_clip
import torch
import torch.nn as nn
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, Transformer
from torch import Tensor

from hdpainter.baselines.nuwa_lip.dfvqgan import DFVQGAN
from hdpainter.baselines.nuwa_lip.transformer import Decoder, Decoding, Encoder
from ldm.checkpoint import DTypes
from ldm.modules.encoders.modules import open_clip_config

# Logits [b, vocabulary] of those rows of the batch whose next cell is masked, and the rows' numbers -> codes [b].
Choose = Callable[[Tensor, list[int]], Tensor]


class TextTower(nn.Module):
    """CLIP's text transformer and a linear layer: tokens [B, context] -> [B, context, dim], all positions."""

    def __init__(
        self,
        dim: int,
        vocabulary: int = 49408,
        width: int = 512,
        heads: int = 8,
        layers: int = 12,
        context: int = 77,
    ):
        super().__init__()
        self.context_length = context
        self.positional_embedding = nn.Parameter(torch.zeros(context, width))
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.transformer = Transformer(width, layers, heads, act_layer=QuickGELU)
        self.ln_final = nn.LayerNorm(width)
        self.cond_emb = nn.Linear(width, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding
        x = self.transformer(x, attn_mask=causal_mask(x.shape[1]).to(x.device))
        return self.cond_emb(self.ln_final(x))


class AxialPositions(nn.Module):
    """Positions [height * width, dim] of a grid: a constant, a table for the rows and one for the columns."""

    def __init__(self, dim: int, height: int, width: int):
        super().__init__()
        self.weights_0 = nn.Parameter(torch.zeros(1, 1, 1, 1, dim))
        self.weights_1 = nn.Parameter(torch.zeros(1, 1, height, 1, dim))
        self.weights_2 = nn.Parameter(torch.zeros(1, 1, 1, width, dim))

    def forward(self) -> Tensor:
        return (self.weights_0 + self.weights_1 + self.weights_2).flatten(0, 3)


class MPS2S(nn.Module):
    """The whole network; the defaults are the published one's.

    img_size, vae_patch_size, vit_patch_size: sides of the pictures, of a code's cell and of a patch, in pixels.
    attn_types_dec, kernel_size: see `Decoder`. vae, clip_text: parameters of `DFVQGAN` and `TextTower`.
    clip_sim: the open_clip model that ranks samples; None: none.
    """

    def __init__(
        self,
        dim: int = 1280,
        dec_depth: int = 24,
        enc_depth: int = 12,
        heads: int = 20,
        dim_head: int = 64,
        ff_mult: int = 4,
        attn_types_dec: Sequence[str] = ("full", "nearby", "nearby", "nearby"),
        kernel_size: int = 11,
        img_size: int = 256,
        vae_patch_size: int = 8,
        vit_patch_size: int = 16,
        vae: Mapping[str, Any] | None = None,
        clip_text: Mapping[str, Any] | None = None,
        clip_sim: str | None = "ViT-B-32-quickgelu",
    ):
        super().__init__()
        self.img_size, self.vae_patch_size = img_size, vae_patch_size
        side, patches = img_size // vae_patch_size, img_size // vit_patch_size
        self.vae = nn.ModuleDict({"model": DFVQGAN(**(vae or {}))})
        vocabulary, width = self.vqgan.quantize.embedding.weight.shape
        self.encoder = TextTower(dim, **(clip_text or {}))
        self.vae_emb = nn.Embedding(vocabulary, width)
        self.image_emb = nn.Linear(width, dim)
        self.patch_emb = nn.Conv2d(3, dim, vit_patch_size, vit_patch_size)
        self.image_bos_emb = nn.Parameter(torch.zeros(1, dim))
        self.image_msk_emb = nn.Parameter(torch.zeros(1, dim))
        self.image_pos_emb_vae = AxialPositions(dim, side, side)
        self.image_pos_emb_vit = AxialPositions(dim, patches, patches)
        layers = {"dim": dim, "heads": heads, "dim_head": dim_head, "ff_mult": ff_mult}
        self.transformer_enc = Encoder(depth=enc_depth, **layers)
        self.transformer_pth = Encoder(depth=enc_depth, **layers)
        self.transformer_dec = Decoder(
            depth=dec_depth, attn_types=attn_types_dec, side=side, kernel_size=kernel_size, **layers
        )
        self.to_logits_img = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, vocabulary))
        if clip_sim is not None:
            self.clip_sim = nn.ModuleDict({"model": build_clip(clip_sim)})

    @property
    def vqgan(self) -> DFVQGAN:
        """The autoencoder between pictures and codes."""
        return cast(DFVQGAN, self.vae["model"])

    def dtype_policy(self, dtype: torch.dtype) -> DTypes:
        """Dtypes for `ldm.checkpoint.load_into`: the three transformers' linear layers in `dtype`."""
        linear = [name for name, module in self.named_modules() if isinstance(module, nn.Linear)]
        cast = [name for name in linear if name.startswith("transformer_")]
        return {"": torch.float32} | dict.fromkeys(cast, dtype)

    def memory(self, codes: Tensor, mask: Tensor, picture: Tensor, tokens: Tensor) -> Tensor:
        """What the decoder attends to [B, M, dim]: known codes, the masked picture's patches, and words.

        The published program takes the patches' embeddings [dim, H', W'] for [H' W', dim] without transposing
        them, and its weights depend on it.
        """
        embedded = self.embed(codes.flatten(1), 0)
        known = torch.where(mask.flatten(1)[..., None], self.image_msk_emb, embedded)
        positions = self.image_pos_emb_vit()
        patches = self.patch_emb(picture).reshape(-1, *positions.shape) + positions
        return torch.cat(
            [self.transformer_enc(known), self.transformer_pth(patches), self.encoder(tokens)], dim=1
        )

    def embed(self, codes: Tensor, start: int) -> Tensor:
        """Embeddings [B, n, dim] of the codes [B, n] of the cells from number `start` on."""
        positions = self.image_pos_emb_vae()[start : start + codes.shape[1]]
        return self.image_emb(self.vae_emb(codes)) + positions

    def decoder_inputs(self, codes: Tensor, mask: Tensor, start: int, stop: int) -> Tensor:
        """The inputs [B, stop - start, dim] at positions start ... stop - 1.

        codes: int64 [B, h w]. mask: bool [B, h w]. Only masked cells show their codes.
        """
        first = max(start - 1, 0)
        cells = slice(first, stop - 1)
        x = torch.where(mask[:, cells, None], self.embed(codes[:, cells], first), self.image_msk_emb)
        return x if start else torch.cat([self.image_bos_emb.expand(len(x), 1, -1), x], dim=1)

    def logits(self, codes: Tensor, mask: Tensor, memory: Tensor) -> Tensor:
        """For every cell those of its code [B, h w, vocabulary], given the codes before it; one full pass."""
        codes, mask = codes.flatten(1), mask.flatten(1)
        x = self.decoder_inputs(codes, mask, 0, codes.shape[1])
        return self.to_logits_img(Decoding(self.transformer_dec, memory)(x))

    def generate(
        self,
        codes: Tensor,
        mask: Tensor,
        decoding: Decoding,
        choose: Choose,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """`codes` with those of the masked cells replaced by what `choose` makes of their logits, cell by cell.

        The decoder goes from one masked cell (of any of the pictures) to the next, so each of its positions is
        computed once, and none after the last masked cell. A whole picture takes 2.8 TFLOP, encoders and all; the
        published program, with a full pass for every code, takes 2.9 for each of its 1,024.
        progress: called with (cell, cells) after each.
        """
        shape, hidden = codes.shape, mask.flatten(1)
        codes = codes.flatten(1).masked_fill(hidden, 0)
        cells = hidden.any(dim=0).nonzero().flatten().tolist()
        rows = [hidden[:, cell].nonzero().flatten() for cell in cells]
        for number, (cell, wanting) in enumerate(zip(cells, rows, strict=True), 1):
            x = decoding(self.decoder_inputs(codes, hidden, decoding.position, cell + 1))
            logits = self.to_logits_img(x[wanting, -1])
            codes[wanting, cell] = choose(logits, wanting.tolist()).to(codes)
            if progress:
                progress(number, len(cells))
        return codes.view(shape)

    def similarity(self, pictures: Tensor, tokens: Tensor) -> Tensor:
        """The cosines [B] between CLIP's features of pictures and of captions, by which samples are ranked."""
        clip: Any = self.clip_sim["model"]
        mean, std = (
            torch.tensor(values, device=pictures.device).view(3, 1, 1)
            for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        )
        small = F.interpolate((pictures.clamp(-1, 1) + 1) / 2, clip.visual.image_size, mode="nearest")
        return F.cosine_similarity(clip.encode_image((small - mean) / std), clip.encode_text(tokens))


def causal_mask(length: int) -> Tensor:
    """What is added to attention's logits [length, length] so that no position sees a later one; on the CPU."""
    return torch.full((length, length), float("-inf"), device="cpu").triu_(1)


def build_clip(arch: str) -> open_clip.CLIP:
    """One of open_clip's models, without weights."""
    config = open_clip_config(arch)
    clip = open_clip.CLIP(
        config["embed_dim"],
        config["vision_cfg"],
        config["text_cfg"],
        quick_gelu=config.get("quick_gelu", False),
    )
    # Not in any checkpoint, so it must be real even if the model is built on the meta device.
    clip.register_buffer("attn_mask", causal_mask(clip.context_length), persistent=False)
    return clip
