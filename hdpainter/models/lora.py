"""LoRAs (Hu et al., 2021): W + scale alpha / r (up down) for weights W of UNet and text encoder, added at load.

Files of kohya's scripts and of diffusers, old and new, are read. Both name the layers as diffusers does, kohya
with underscores; here all names are compared in that form.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from hdpainter.models.diffusers_keys import unet_modules
from hdpainter.models.registry import Stage, find_checkpoint
from hdpainter.models.text_layouts import modules as text_modules
from ldm.checkpoint import file_format, read_state_dict
from ldm.util import UserError, shown

UNET, TEXT = (
    "model.diffusion_model.",
    "cond_stage_model.",
)  # what the names of a model's parameters begin with
LARGEST_SCALE = 100.0

_ROLES = {"lora_down": "down", "lora_A": "down", "lora_up": "up", "lora_B": "up"}
_KEY = re.compile(
    r"(?P<module>.+?)\.(?P<role>lora_down|lora_up|lora_A|lora_B|lora(?:_linear_layer)?\.(?:down|up))"
    r"(?:\.default)?\.weight"
)
_PROCESSOR = re.compile(
    r"(?P<module>.+)\.processor\.(?P<layer>to_[qkv]|to_out)_lora\.(?P<role>down|up)\.weight"
)


@dataclass(frozen=True)
class LoRAFile:
    """A LoRA's file, and how strongly it is added."""

    path: Path
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "LoRAFile":
        """From ``FILE`` or ``FILE:SCALE``. Raises UserError for a scale beyond 100 or without a file."""
        name, colon, end = text.rpartition(":")
        try:
            scale = float(end) if colon else math.nan
        except ValueError:  # a colon of the path itself
            colon, scale = "", math.nan
        if not colon:
            return cls(Path(text))
        if not name or not abs(scale) <= LARGEST_SCALE:
            raise UserError(f"lora {shown(text)}: give FILE or FILE:SCALE, with a scale from -100 to 100")
        return cls(Path(name), scale)


def stage_loras(stage: Stage) -> list[LoRAFile]:
    """The LoRAs of a pipeline's stage, found. Raises UserError for a missing file."""
    named = [LoRAFile.parse(text) for text in stage.loras]
    return [replace(lora, path=find_checkpoint(lora.path)) for lora in named]


@dataclass
class _Delta:
    """What a LoRA has for one layer."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None

    def change(self) -> Tensor:
        """alpha / r (up down), of the layer's shape [out, in] or [out, in, height, width]."""
        assert self.down is not None and self.up is not None
        rank = self.down.shape[0]
        scale = 1.0 if self.alpha is None else self.alpha / rank
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return scale * product.reshape(len(self.up), *self.down.shape[1:])


def add_loras(model: nn.Module, loras: Iterable[LoRAFile]) -> None:
    """Add LoRAs to the weights of a loaded `LatentDiffusion`, in place and in the dtype of each.

    A weight at a time is computed, in float32. Raises UserError for a file that is no LoRA, or one of layers that
    the model does not have, before anything is changed.
    """
    targets = _targets(model)
    changes: dict[str, list[tuple[int | None, float, _Delta]]] = defaultdict(list)
    for lora in loras:
        for module, delta in read_lora(lora.path).items():
            if module not in targets:
                raise UserError(f"{lora.path} has weights for {module}, which this model does not have")
            name, third = targets[module]
            _check(lora.path, module, delta, model.get_parameter(name), third)
            changes[name].append((third, lora.scale, delta))
    for name, added in changes.items():
        parameter = model.get_parameter(name)
        weight = parameter.detach().float()  # a new tensor, or the file's: then it must not be written to
        weight = weight.clone() if weight.dtype == parameter.dtype else weight
        for third, scale, delta in added:
            part = weight if third is None else weight.chunk(3)[third]
            part += scale * delta.change().to(part.device).reshape(part.shape)
        parameter.data = weight.to(parameter.dtype)


def _check(path: Path, module: str, delta: _Delta, weight: Tensor, third: int | None) -> None:
    if delta.down is None or delta.up is None:
        raise UserError(f"{path}: of {module} there is only one of the two matrices")
    out, inner = len(weight) // (1 if third is None else 3), weight[0].numel()
    shape = (len(delta.up), delta.down[0].numel())
    if shape != (out, inner) or delta.up.shape[1] != len(delta.down):
        raise UserError(
            f"{path}: {module} is {list(shape)} there, {[out, inner]} in the model: it is for another model"
        )


def _targets(model: nn.Module) -> dict[str, tuple[str, int | None]]:
    """The parameters of a model by the names that LoRAs have for their layers, with the third of a joined
    projection that is meant."""
    names = [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]
    unet = unet_modules(name.removeprefix(UNET) for name in names if name.startswith(UNET))
    text = text_modules(name.removeprefix(TEXT) for name in names if name.startswith(TEXT))
    targets = {_plain(f"unet.{module}"): (UNET + name, None) for module, name in unet.items()}
    targets |= {
        _plain(f"unet.{name.removesuffix('.weight')}"): (UNET + name, None) for name in unet.values()
    }  # as in `ldm`
    return targets | {
        _plain(f"text_encoder.{module}"): (TEXT + name, third) for module, (name, third) in text.items()
    }


def _plain(module: str) -> str:
    """The form in which names are compared."""
    module = re.sub(r"^base_model\.model\.", "", module)
    module = re.sub(r"^lora_te1?_", "text_encoder_", re.sub(r"^lora_unet_", "unet_", module))
    if not module.startswith(("unet", "text_encoder")):
        module = f"{'text_encoder' if 'encoder.layers' in module else 'unet'}.{module}"
    return module.replace(".", "_").replace("text_encoder_text_model_", "text_encoder_")


def read_lora(path: Path) -> dict[str, _Delta]:
    """What a LoRA's file has, by layer. Raises UserError for a file that is no LoRA, or one of another kind."""
    deltas: dict[str, _Delta] = defaultdict(_Delta)
    for key, tensor in read_state_dict(path).items():
        if match := _PROCESSOR.fullmatch(key):
            layer = "to_out.0" if match["layer"] == "to_out" else match["layer"]
            setattr(deltas[_plain(f"{match['module']}.{layer}")], match["role"], tensor)
        elif match := _KEY.fullmatch(key):
            role = _ROLES.get(match["role"], match["role"].rsplit(".", 1)[-1])
            setattr(deltas[_plain(match["module"])], role, tensor)
        elif key.endswith(".alpha") and tensor.numel() == 1:
            deltas[_plain(key.removesuffix(".alpha"))].alpha = float(tensor)
        else:
            kind = "; LoHa, LoKr and DoRA are not read" if re.search("hada_|lokr_|dora|lora_mid", key) else ""
            raise UserError(f"{path} is no LoRA that can be read here: it has {key}{kind}")
    for part, settings in _adapters(path).items():
        for module, delta in deltas.items():
            if delta.alpha is None and module.startswith(part):
                delta.alpha = settings.get("lora_alpha")
    return dict(deltas)


def _adapters(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """The settings that diffusers writes into the header of its files, by part of the pipeline."""
    if file_format(path) != "safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("lora_adapter_metadata", "{}")
    try:
        flat = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{path}: its lora_adapter_metadata is not valid JSON") from None
    settings: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in flat.items() if isinstance(flat, dict) else ():
        part, _, name = str(key).partition(".")
        settings[part][name] = value
    for part, found in settings.items():
        patterns = [name for name in ("alpha_pattern", "rank_pattern") if found.get(name)]
        alpha = found.get("lora_alpha")
        if patterns or found.get("use_rslora") or found.get("use_dora"):
            raise UserError(
                f"{path}: its {part} has settings that are not read: {', '.join(patterns) or 'rslora'}"
            )
        if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, int | float)):
            raise UserError(f"{path}: lora_alpha is {shown(alpha)}, not a number")
    return settings
