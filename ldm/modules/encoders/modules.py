"""Text encoders: prompts -> the context [B, tokens, d] of the UNet's cross-attention."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from ldm.util import CONFIGS, UserError, cut, shown


class TextEncoder(nn.Module):
    """A text tower whose weights come from the diffusion model's checkpoint.

    Builds cheaply on the meta device: only parameters are there, and what no checkpoint holds is real.
    """

    max_length: int

    def tokenize(self, text: str | Sequence[str]) -> Tensor:
        """CLIP's BPE tokens [B, max_length]: start, words, end of text (49407), padding; long prompts are cut."""
        texts = [text] if isinstance(text, str) else list(text)
        return open_clip.tokenize(texts, context_length=self.max_length)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Features [B, max_length, d] of tokens [B, max_length]."""
        raise NotImplementedError

    def forward(self, text: str | Sequence[str] | Tensor) -> Tensor:
        """Features [B, max_length, d] of B prompts, or of their tokens, on the device of the weights."""
        tokens = text if isinstance(text, Tensor) else self.tokenize(text)
        return self.encode_tokens(tokens.to(next(self.parameters()).device))

    def encode(self, text: str | Sequence[str] | Tensor) -> Tensor:
        """The same as calling the encoder."""
        return self(text)

    def freeze(self) -> None:
        """Evaluation mode, and no gradients for the weights."""
        self.eval().requires_grad_(False)


def open_clip_config(arch: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The open_clip model config that `arch` stands for.

    arch: the name of one of open_clip's models (also those added with ``open_clip.add_model_config``), the path
        of a JSON file, absolute or relative to the working directory or to the project, or the config itself.
    """
    if isinstance(arch, Mapping):
        return dict(arch)
    if Path(arch).suffix != ".json":
        config = open_clip.get_model_config(str(arch))
        if config is None:
            raise UserError(
                f"open_clip has no model {shown(str(arch))}; give one of its names or the path of a .json file"
            )
        return config
    for path in (Path(arch), CONFIGS.parent / arch):
        if path.is_file():
            try:
                return json.loads(path.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise UserError(f"{path} is not valid JSON: {error}") from None
    raise UserError(f"arch: {cut(str(arch), 300)} does not exist")


class FrozenOpenCLIPEmbedder(TextEncoder):
    """OpenCLIP's text transformer, Stable Diffusion 2's encoder.

    arch: see `open_clip_config`. layer: `last`, or `penultimate`, which leaves out the last block; the final
    LayerNorm follows in both cases. max_length: at most the context length of `arch`.
    version, device: accepted for SD2's configs. The weights come from the checkpoint, tokens go where they are.
    """

    def __init__(
        self,
        arch: str | Path | Mapping[str, Any] = "ViT-H-14",
        version: str | None = "laion2b_s32b_b79k",
        device: str | None = None,
        max_length: int = 77,
        freeze: bool = True,
        layer: str = "last",
    ):
        super().__init__()
        if layer not in ("last", "penultimate"):
            raise UserError(f"layer must be 'last' or 'penultimate', not {shown(layer)}")
        config = open_clip_config(arch)
        if "embed_dim" not in config or "text_cfg" not in config or config.get("custom_text"):
            raise UserError(
                f"arch {arch}: not an open_clip config of a plain CLIP (embed_dim, vision_cfg, text_cfg)"
            )
        # The vision tower is not needed, so it is built as small as open_clip allows.
        vision = {"layers": 1, "width": 64, "image_size": 32, "patch_size": 32}
        clip = open_clip.CLIP(
            config["embed_dim"], vision, config["text_cfg"], quick_gelu=config.get("quick_gelu", False)
        )
        del clip.visual
        length = clip.context_length
        if max_length > length:
            raise UserError(f"max_length {shown(max_length)} exceeds the context length {length} of {arch}")
        # Not in any checkpoint, so it must be real even if the model is built on the meta device.
        causal = torch.full((max_length, max_length), float("-inf"), device="cpu").triu_(1)
        clip.register_buffer("attn_mask", causal, persistent=False)
        self.model = clip
        self.layer = layer
        self.max_length = max_length
        if freeze:
            self.freeze()

    @property
    def idle(self) -> list[str]:
        """Names of the parameters that no features depend on; diffusers' Stable Diffusion 2 lacks them."""
        last = f"transformer.resblocks.{len(self.model.transformer.resblocks) - 1}."
        unused = ("text_projection", "logit_scale", *((last,) if self.layer == "penultimate" else ()))
        return [f"model.{name}" for name, _ in self.model.named_parameters() if name.startswith(unused)]

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        clip = self.model
        x = clip.token_embedding(tokens) + clip.positional_embedding[: tokens.shape[1]]
        blocks = clip.transformer.resblocks
        for block in blocks if self.layer == "last" else blocks[:-1]:
            x = block(x, attn_mask=clip.attn_mask)  # [B, tokens, d]: open_clip's blocks are batch-first
        return clip.ln_final(x)


class FrozenCLIPEmbedder(TextEncoder):
    """OpenAI's CLIP text transformer, Stable Diffusion 1's encoder.

    version: the CLIP model, or its dimensions as in VERSIONS; the weights come from the checkpoint.
    layer: `last` (after the final LayerNorm), `pooled` (the end-of-text feature, [B, 1, d]) or `hidden` (the
        output of block number `layer_idx`, 0 being the embeddings).
    device: accepted for SD's configs; tokens go where the weights are.
    """

    VERSIONS: Mapping[str, Mapping[str, int]] = {
        "openai/clip-vit-large-patch14": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
        },
    }

    def __init__(
        self,
        version: str | Mapping[str, int] = "openai/clip-vit-large-patch14",
        device: str | None = None,
        max_length: int = 77,
        freeze: bool = True,
        layer: str = "last",
        layer_idx: int | None = None,
    ):
        from transformers import CLIPTextConfig, CLIPTextModel  # heavy, and only Stable Diffusion 1 needs it

        super().__init__()
        if isinstance(version, str) and version not in self.VERSIONS:
            raise UserError(
                f"FrozenCLIPEmbedder: version {shown(version)} is not one of {', '.join(self.VERSIONS)}"
            )
        if layer not in ("last", "pooled", "hidden"):
            raise UserError(f"layer must be 'last', 'pooled' or 'hidden', not {shown(layer)}")
        sizes = self.VERSIONS[version] if isinstance(version, str) else version
        config = CLIPTextConfig(**sizes)
        if max_length > config.max_position_embeddings:
            raise UserError(
                f"max_length {shown(max_length)} exceeds the {config.max_position_embeddings} tokens of {version}"
            )
        if layer == "hidden" and (layer_idx is None or not 0 <= layer_idx <= config.num_hidden_layers):
            raise UserError(
                f"layer 'hidden' needs a layer_idx in 0 ... {config.num_hidden_layers}, got {shown(layer_idx)}"
            )
        tower = CLIPTextModel(config)
        # Checkpoints have `transformer.text_model.*`; transformers 5 has dropped the level in between.
        tower = getattr(tower, "text_model", tower)
        # Not in any checkpoint, so it must be real even if the model is built on the meta device.
        positions = torch.arange(config.max_position_embeddings, device="cpu")[None]
        tower.embeddings.register_buffer("position_ids", positions, persistent=False)
        self.transformer = nn.ModuleDict({"text_model": tower})
        self.eot = config.eos_token_id
        self.layer, self.layer_idx = layer, layer_idx
        self.max_length = max_length
        if freeze:
            self.freeze()

    def tokenize(self, text: str | Sequence[str]) -> Tensor:
        """CLIP's BPE tokens [B, max_length]; this model was trained with end-of-text tokens as padding."""
        tokens = super().tokenize(text)
        first_eot = (tokens == self.eot).int().argmax(dim=1, keepdim=True)
        return tokens.masked_fill(torch.arange(self.max_length) > first_eot, self.eot)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        out = self.transformer["text_model"](input_ids=tokens, output_hidden_states=self.layer == "hidden")
        if self.layer == "hidden":
            return out.hidden_states[self.layer_idx]
        return out.last_hidden_state if self.layer == "last" else out.pooler_output[:, None]
