"""What distinguishes one method from another: frozen settings, read from ``configs/methods/*.yaml``.

There is one implementation. The paper's equations (`hd-painter`), the computation of the authors' released
code (`hd-painter-release`), the ablations and the plain baseline differ in these values only, and the name of
each value says what it does.
"""

import dataclasses
import difflib
import math
import operator
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hdpainter.masks import MaskSettings
from ldm.util import CONFIGS, UserError, read_yaml

METHODS = CONFIGS / "methods"
COMPARED = ("stable-inpainting", "painta", "rasg", "hd-painter")  # the ablation, Table 2 of the paper

RANGES = {"seed": (0, 2**63 - 1), "size": (1, 2**15)}
KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}  # for error messages


@dataclass(frozen=True)
class SamplerSettings:
    """The DDIM sampler of stage 1.

    steps: number of denoising steps.
    grid: `uniform` is SD2's 1, 21, ..., 981 (for 50 steps); `descend` the release's 19, 39, ..., 999.
    guidance_scale: classifier-free guidance; 1 switches it off.
    eta: share of the stochastic term in Eq. 3, in [0, 1]; 0 is the deterministic Eq. 4.
    """

    steps: int = 50
    grid: Literal["uniform", "descend"] = "uniform"
    guidance_scale: float = 7.5
    eta: float = 0.0

    def __post_init__(self):
        _check_steps(self.steps, self.guidance_scale)
        if not 0 <= self.eta <= 100:
            raise UserError(f"eta is {self.eta}: give a number from 0 to 1; the paper has 0.25")


@dataclass(frozen=True)
class PAIntASettings:
    """Prompt-Aware Introverted Attention (section 3.3).

    query: the features that Q_c is projected from. `block_input`: norm1 of the block's input, the X of the
        paper's text. `after_self_attention`: norm2 of the input plus the ordinary self-attention, the features
        that the borrowed projection was trained on, as the release has it.
    smoothing: width of the 3x3 Gaussian that smooths c before it is normalised; None as in the paper.
    until: PAIntA acts on timesteps t > until; 0 is always.
    """

    query: Literal["block_input", "after_self_attention"] = "block_input"
    smoothing: float | None = None
    until: int = 0

    def __post_init__(self):
        if self.smoothing is not None and not 0 < self.smoothing < math.inf:
            raise UserError(f"painta.smoothing is {self.smoothing}: give a width above 0, or null for none")
        if not 0 <= self.until < 1000:
            raise UserError(f"painta.until is {self.until}: give a timestep from 0 to 999")


@dataclass(frozen=True)
class RASGSettings:
    """Guidance by the cross-attention scores (section 3.4).

    update: `reweighted` is RASG (Eq. 7): the standardised gradient takes the place of the noise.
        `post-hoc` is the vanilla guidance (Eq. 6) that the paper argues against.
    sigma: which alphas the noise level of Eq. 7 is computed from: `cumulative` products (the paper and DDIM)
        or the `per_step` alphas of the release, which make it 10 to 25 times smaller.
    logit_shift: subtracted from the scores before the sigmoid of Eq. 9; the release has 1.
    reduction: `sum` over pixels (Eq. 9) or their `mean`; changes the reported score, not the direction.
    scale: s of Eq. 6; used by `post-hoc` only.
    """

    update: Literal["reweighted", "post-hoc"] = "reweighted"
    sigma: Literal["cumulative", "per_step"] = "cumulative"
    logit_shift: float = 0.0
    reduction: Literal["sum", "mean"] = "sum"
    scale: float = 1.0

    def __post_init__(self):
        for key in ("logit_shift", "scale"):
            if not math.isfinite(getattr(self, key)):
                raise UserError(f"rasg.{key} is {getattr(self, key)}: give a finite number")


@dataclass(frozen=True)
class PromptSettings:
    """Words added to the user's: `positive` follows the prompt after a comma, `negative` is the prompt of the
    unconditional half."""

    positive: str = ""
    negative: str = ""


@dataclass(frozen=True)
class SuperResSettings:
    """Inpainting-specialised x4 super-resolution (section 3.5).

    noise_level: timestep to which the low-resolution condition is noised.
    positive, negative: words added to the prompt, and the prompt of the unconditional half.
    blend: Eq. 10; without it the upscaler is the ordinary one.
    mask: M of Eq. 10 as it is (`hard`), or dilated and blurred as in the release (`soft`).
    crop_margin: run on the mask's bounding box widened by this many low-resolution pixels instead of the whole
        image; 3 to 8 times less work for usual masks, not exact (the networks' norms and attention are global).
    tile: decode and encode in tiles of this many pixels; bounds memory further, not exact. None: whole.
    """

    steps: int = 20
    grid: Literal["uniform", "descend"] = "uniform"
    guidance_scale: float = 7.5
    noise_level: int = 20
    positive: str = "high resolution professional photo"
    negative: str = ""
    blend: bool = True
    mask: Literal["hard", "soft"] = "hard"
    crop_margin: int | None = None
    tile: int | None = None

    def __post_init__(self):
        _check_steps(self.steps, self.guidance_scale)
        if not 0 <= self.noise_level < 1000:
            raise UserError(f"superres.noise_level is {self.noise_level}: give a timestep from 0 to 999")
        if self.crop_margin is not None and self.crop_margin < 0:
            raise UserError(f"superres.crop_margin is {self.crop_margin}: give a number of pixels, 0 or more")
        if self.tile is not None and (self.tile < 256 or self.tile % 64):
            raise UserError(f"superres.tile is {self.tile}: give a multiple of 64, at least 256")


@dataclass(frozen=True)
class Method:
    """Everything that defines a method.

    painta, rasg: None: that part is off.
    known_region: `exact` leaves every pixel outside M as it is; `blended` is the release's Poisson blending,
        which also moves pixels near the seam.
    rounding: of decoded pixels to 8 bits; the release truncates.
    """

    name: str
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    painta: PAIntASettings | None = None
    rasg: RASGSettings | None = None
    prompts: PromptSettings = field(default_factory=PromptSettings)
    masks: MaskSettings = field(default_factory=MaskSettings)
    superres: SuperResSettings = field(default_factory=SuperResSettings)
    known_region: Literal["exact", "blended"] = "exact"
    rounding: Literal["round", "truncate"] = "round"

    def __post_init__(self):
        per_step = self.rasg is not None and self.rasg.sigma == "per_step"
        if self.sampler.eta > 1 and not per_step:  # σ of single steps is so small that more can make sense
            raise UserError(f"eta is {self.sampler.eta}: give a number from 0 to 1; the paper has 0.25")

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Method":
        """A method by its name in ``configs/methods`` or by the path of a YAML file.

        Raises UserError for an unknown name, and for keys or values that the settings do not have.
        """
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            path = METHODS / f"{name_or_path}.yaml"
            if not path.is_file():
                known = ", ".join(method_names())
                raise UserError(f"unknown method {str(name_or_path)!r}; known: {known}, or give a .yaml file")
        return cls.from_values({"name": path.stem, **read_yaml(path)}, str(path))

    @classmethod
    def from_values(cls, values: Mapping[str, Any], where: str = "method") -> "Method":
        """A method from plain values, such as a result's metadata holds; `where` is for error messages."""
        return from_mapping(cls, values, where)

    def adjusted(
        self,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        eta: float | None = None,
        negative_prompt: str | None = None,
        crop_margin: int | None = None,
        tile: int | None = None,
        known_region: str | None = None,
    ) -> "Method":
        """A copy with the values that a user may set for one picture; None: as the method has it.

        crop_margin and tile are stage 2's, the rest is stage 1's. Raises UserError for a value out of range.
        """
        changed = self.override(
            sampler={"steps": steps, "guidance_scale": guidance_scale, "eta": eta},
            prompts={"negative": negative_prompt},
            superres={"crop_margin": crop_margin, "tile": tile},
        )
        values = dataclasses.asdict(changed) | {"known_region": known_region or self.known_region}
        return type(self).from_values(values, f"method {self.name}")

    def override(self, **groups: Mapping[str, Any]) -> "Method":
        """A copy with single values replaced: ``method.override(sampler={"steps": 20})``; None is ignored."""
        merged = dataclasses.asdict(self)
        for group, values in groups.items():
            given = {key: value for key, value in values.items() if value is not None}
            if given and merged.get(group) is not None:
                merged[group] = {**merged[group], **given}
        return from_mapping(type(self), merged, f"method {self.name}")


def whole_number(key: str, value: Any) -> int:
    """The value of `key`, one of RANGES, as an int. Raises UserError unless it is a whole number in its range."""
    low, high = RANGES[key]
    try:
        number = operator.index(value)
    except TypeError:
        raise UserError(f"{key} must be a whole number, not {value!r}") from None
    if not low <= number <= high:
        raise UserError(f"{key} is {number}: give a number from {low} to {high}")
    return number


def _check_steps(steps: int, guidance_scale: float) -> None:
    if not 1 <= steps <= 1000:
        raise UserError(f"steps is {steps}: give a number from 1 to 1000")
    if not math.isfinite(guidance_scale):
        raise UserError(f"guidance_scale is {guidance_scale}: give a finite number; 1 switches guidance off")


def method_names() -> list[str]:
    """Names of the methods in ``configs/methods``."""
    return sorted(path.stem for path in METHODS.glob("*.yaml"))


def from_mapping(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """Build the settings dataclass `cls` from plain values, checking names and types; `where` is for messages.

    Raises UserError that names the key, its place and what would be right.
    """
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, n=1)
            advice = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(hints)}"
            raise UserError(f"{where}: unknown key {key!r}; {advice}")
    return cls(**{key: _convert(hints[key], value, f"{where}: {key}") for key, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if value is None and type(None) in hint.__args__:
            return None
        hint = next(option for option in hint.__args__ if option is not type(None))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"{where} must be a mapping, not {value!r}")
        return from_mapping(hint, value, where)
    if typing.get_origin(hint) is Literal:
        if value not in hint.__args__:
            raise UserError(f"{where} must be one of {', '.join(map(str, hint.__args__))}, not {value!r}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{where} is too large a number") from None
    if isinstance(hint, type) and (
        not isinstance(value, hint) or (hint is not bool and isinstance(value, bool))
    ):
        raise UserError(f"{where} must be {KINDS.get(hint, hint.__name__)}, not {value!r}")
    return value
