"""What distinguishes one method from another: frozen settings, read from ``configs/methods/*.yaml``.

There is one implementation. What the authors' evaluation computes (`hd-painter`), the equations as printed
(`hd-painter-printed`), the authors' command line (`hd-painter-release`), the ablations and the plain baseline
differ in these values only, and the name of each value says what it does.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from hdpainter.baselines.glide.timesteps import spaced_timesteps
from hdpainter.blend import KnownRegion
from hdpainter.configs import read_yaml
from hdpainter.files import refuse_name
from hdpainter.inputs import PADDING, Grow, InputSettings, MaskChannel, Outpaint, Padding
from hdpainter.masks import MaskSettings
from hdpainter.records import read_record, settings_of
from hdpainter.values import (
    Checked,
    Range,
    check_keys,
    from_mapping,
    parse,
    places,
    quoted,
    required,
    unknown,
)
from ldm.util import CONFIGS, UserError

METHOD_FILES = CONFIGS / "methods"
RESULTS = (".png", ".json")  # which say how they were made
COMPARED = ("stable-inpainting", "painta", "rasg", "hd-painter")  # the ablation, Table 2 of the paper

Steps = Annotated[int, Range(1, 1000)]
Timestep = Annotated[int, Range(0, 999, "a timestep from 0 to 999")]
GuidanceScale = Annotated[float, Range(-1000, 1000, "a number up to 1000; 1 switches guidance off")]
Eta = Annotated[float, Range(0, 100, "a number from 0 to 1; the paper has 0.25")]  # closer: see Method
# By σ; that of single steps is so small that more can make sense.
LARGEST_ETA = {"cumulative": 1, "per_step": 4}
Pixels = Annotated[int, Range(0, 2**15, "a number of pixels from 0 to 32768")]
Tile = Annotated[int, Range(256, 2**15, "a multiple of 64 from 256 to 32768", step=64)]
# All that torch's generator keeps.
Seed = Annotated[int, Range(0, 2**32 - 1, f"a number from 0 to {2**32 - 1}; there is no random seed")]
Size = Annotated[int, Range(1, 2**15)]  # longer side of a picture, in pixels
Grid = Literal["uniform", "descend"]
Objective = Literal["bce", "l1", "softmax", "max"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
# Of a pipeline's stage 1: a latent diffusion model, or a baseline's.
Kind = Literal["ldm", "glide", "nuwa-lip"]


@dataclass(frozen=True)
class SamplerSettings(Checked):
    """The DDIM sampler of stage 1.

    steps: number of denoising steps.
    grid: `uniform` is SD2's 1, 21, ..., 981 (for 50 steps); `descend` the release's 19, 39, ..., 999.
    guidance_scale: classifier-free guidance; 1 switches it off.
    eta: share of the stochastic term in Eq. 3, in [0, 1]; 0 is the deterministic Eq. 4.
    background: how the known part gets into x_t. `conditioned`: an inpainting model sees it. `blended`: it is put
        back before each step, as in Blended Latent Diffusion, see `hdpainter.inpaint`; for text-to-image models.
    """

    steps: Steps = 50
    grid: Grid = "uniform"
    guidance_scale: GuidanceScale = 7.5
    eta: Eta = 0.0
    background: Literal["conditioned", "blended"] = "conditioned"


@dataclass(frozen=True)
class PAIntASettings(Checked):
    """Prompt-Aware Introverted Attention (section 3.3).

    query: the features that Q_c is projected from. `block_input`: norm1 of the block's input, the X of the
        paper's text. `after_self_attention`: norm2 of the input plus the ordinary self-attention, the features
        that the borrowed projection was trained on, as the release has it. `port`: the same, but with the input
        rebuilt from norm1's output y as (y + bias) weight, as the diffusers community port has it.
    smoothing: width of the 3x3 Gaussian that smooths c before it is normalised; None as in the paper.
    until: PAIntA acts on timesteps t > until; 0 is always.
    """

    query: Literal["block_input", "after_self_attention", "port"] = "block_input"
    smoothing: Annotated[float, Range(0.01, 100, "a width from 0.01 to 100, or null for none")] | None = None
    until: Timestep = 0


@dataclass(frozen=True)
class RASGSettings(Checked):
    """Guidance by the cross-attention scores (section 3.4).

    update: `reweighted` is RASG (Eq. 7): the standardised gradient takes the place of the noise.
        `post-hoc` is the vanilla guidance (Eq. 6) that the paper argues against.
    sigma: which alphas the noise level of Eq. 7 is computed from: `cumulative` products (the paper and DDIM)
        or the `per_step` alphas of the release, which make it 10 to 25 times smaller.
    objective: what S is, see `hdpainter.objectives`: `bce` is Eq. 9.
    logit_shift: subtracted from the scores before the sigmoid of Eq. 9; the release has 1.
    reduction: `sum` over pixels (Eq. 9) or their `mean`; changes the reported score, not the direction.
    center: take the gradient's mean off before it is divided by its std, as the diffusers community port does.
    scale: s of Eq. 6; used by `post-hoc` only.
    """

    update: Literal["reweighted", "post-hoc"] = "reweighted"
    sigma: Literal["cumulative", "per_step"] = "cumulative"
    objective: Objective = "bce"
    logit_shift: Annotated[float, Range(-1000, 1000)] = 0.0
    reduction: Literal["sum", "mean"] = "sum"
    center: bool = False
    scale: Annotated[float, Range(-1e6, 1e6)] = 1.0


@dataclass(frozen=True)
class PromptSettings(Checked):
    """Words added to the user's: `positive` follows the prompt after a comma, `negative` is the prompt of the
    unconditional half."""

    positive: str = ""
    negative: str = ""


@dataclass(frozen=True)
class SuperResSettings(Checked):
    """Inpainting-specialised x4 super-resolution (section 3.5).

    noise_level: timestep to which the low-resolution condition is noised.
    positive, negative: words added to the prompt, and the prompt of the unconditional half.
    blend: Eq. 10; without it the upscaler is the ordinary one.
    mask: M of Eq. 10 as it is (`hard`), or dilated and blurred as in the release (`soft`).
    crop_margin: run on the mask's bounding box widened by this many low-resolution pixels instead of the whole
        image; 3 to 8 times less work for usual masks, not exact (the networks' norms and attention are global).
    tile: decode and encode in tiles of this many pixels; bounds memory further, not exact. None: whole.
    """

    steps: Steps = 20
    grid: Grid = "uniform"
    guidance_scale: GuidanceScale = 7.5
    noise_level: Timestep = 20
    positive: str = "high resolution professional photo"
    negative: str = ""
    blend: bool = True
    mask: Literal["hard", "soft"] = "hard"
    crop_margin: Pixels | None = None
    tile: Tile | None = None


def setting(
    group: str,
    text: str,
    place: str | None = None,
    default: Any = None,
    bare: str | None = None,
    several: bool = False,
) -> Any:
    """A field for what a user may set: the heading it stands under, its help, its place in a `Method`, its value
    where its flag is given without one, and whether the flag may be given several times."""
    told = {"group": group, "help": text, "place": place, "bare": bare, "several": several}
    return field(default=default, metadata=told)


@dataclass(frozen=True, kw_only=True)
class Adjustments(Checked):
    """What a user may set of a method for one picture; None: as the method has it.

    The one table behind the arguments of `HDPainter`, the flags of the command line, the keys of jobs in files
    and of methods in the benchmark's configs, and the page's recipes. To add a setting, write its line here.
    """

    steps: Steps | None = setting(
        "sampler", "denoising steps of stage 1 (default: the method's)", "sampler.steps"
    )
    guidance_scale: GuidanceScale | None = setting(
        "sampler",
        "classifier-free guidance of stage 1 (default: the method's)",
        "sampler.guidance_scale",
    )
    eta: Eta | None = setting(
        "sampler",
        "share of the stochastic term of DDIM, 0 to 1 (default: the method's)",
        "sampler.eta",
    )
    negative_prompt: str | None = setting(
        "what to paint", "what to keep away from (default: the method's)", "prompts.negative"
    )
    crop_margin: Pixels | None = setting(
        "stage 2",
        "work only around the mask, with this margin in pixels of stage 1: faster, not exact "
        "(default: the method's, or else the model's)",
        "superres.crop_margin",
    )
    tile: Tile | None = setting(
        "stage 2",
        "encode and decode in tiles of this many pixels: less memory, not exact (default: whole)",
        "superres.tile",
    )
    only_masked: Padding | None = setting(
        "input",
        "stage 1 sees only the mask's surroundings, this many pixels around it, enlarged to its size: detail "
        f"for small holes in large pictures (default: the whole picture; without a number {PADDING})",
        "input.only_masked",
        bare=str(PADDING),
    )
    each_hole: bool | None = setting(
        "input",
        "fill parts of the mask that are far apart one after the other, from left to right; prompts separated by "
        "| are theirs",
        "input.each_hole",
    )
    outpaint: Outpaint | None = setting(
        "input",
        "let the picture grow, and fill what is new: left=200,right=200,top=64; then no mask is needed",
        "input.outpaint",
    )
    mask_channel: MaskChannel | None = setting(
        "input",
        "grey: white is filled; alpha: transparent is filled, as where a hole was erased (default: grey)",
        "input.mask_channel",
    )
    invert_mask: bool | None = setting("input", "fill what the mask keeps", "input.invert_mask")
    resize_mask: bool | None = setting(
        "input", "bring a mask of another size to the picture's", "input.resize_mask"
    )
    grow: Grow | None = setting("input", "pixels by which the mask grows on all sides", "input.grow")
    known_region: KnownRegion | None = setting(
        "output",
        "exact: pixels outside the mask stay bit-identical; blended: Poisson blending also moves those near it "
        "(default: the method's)",
        "known_region",
    )

    def by_place(self) -> dict[str, Any]:
        """The values that are given, by their place in a method."""
        values = {f.metadata.get("place"): getattr(self, f.name) for f in fields(self)}
        return {place: value for place, value in values.items() if place and value is not None}


_LATENT_MASKS = tuple(f"masks.{key}" for key in ("dilate", "levels", "rasg", "concat", "pad"))


@dataclass(frozen=True)
class Method(Checked):
    """Everything that defines a method.

    kind: of the pipelines that it goes with. without: places in it that say nothing to these, and may not be set.
    painta, rasg: None: that part is off.
    input: how the user's picture and mask are read.
    known_region: `exact` leaves every pixel outside M as it is; `blended` is the release's Poisson blending,
        which also moves pixels near the seam.
    rounding: of decoded pixels to 8 bits; the release truncates.
    """

    kind: ClassVar[Kind] = "ldm"
    without: ClassVar[tuple[str, ...]] = ()

    name: str
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    painta: PAIntASettings | None = None
    rasg: RASGSettings | None = None
    prompts: PromptSettings = field(default_factory=PromptSettings)
    masks: MaskSettings = field(default_factory=MaskSettings)
    superres: SuperResSettings = field(default_factory=SuperResSettings)
    input: InputSettings = field(default_factory=InputSettings)
    known_region: KnownRegion = "exact"
    rounding: Literal["round", "truncate"] = "round"

    def __post_init__(self) -> None:
        super().__post_init__()
        largest = LARGEST_ETA[self.rasg.sigma if self.rasg else "cumulative"]
        if self.sampler.eta > largest:
            raise UserError(
                f"eta is {self.sampler.eta}: give a number from 0 to {largest}; the paper has 0.25"
            )
        padding = self.input.only_masked
        if self.known_region == "blended" and padding is not None and padding < PADDING:
            raise UserError(
                f"only_masked is {padding}: where the known region is blended, which moves pixels around "
                f"the mask, give at least {PADDING}"
            )

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Method":
        """A method by its name in ``configs/methods``, by the path of a YAML file, or as a result has it, by the
        path of its PNG or of the JSON beside it.

        Raises UserError for an unknown name, and for keys or values that the settings do not have.
        """
        path = Path(name_or_path)
        refuse_name(path)
        if path.suffix in RESULTS:
            return cls.from_values(settings_of(read_record(path))["method"], str(path))
        if path.suffix not in (".yaml", ".yml"):
            path = METHOD_FILES / f"{name_or_path}.yaml"
            if not path.is_file():
                raise unknown("method", str(name_or_path), method_names(), ", or give a .yaml file")
        values = read_yaml(path)
        method = cls.from_values({"name": path.stem, **values}, str(path))
        method._refuse_foreign(values, str(path))
        for part, inner in values.items():
            if isinstance(inner, Mapping):
                method._refuse_foreign([f"{part}.{key}" for key in inner], str(path))
        return method

    @classmethod
    def from_values(cls, values: Mapping[str, Any], where: str = "method") -> "Method":
        """A method from plain values, such as a result's metadata holds; `where` is for error messages."""
        own = next((own for own in (GlideMethod, NuwaLipMethod) if own.part in values), Method)
        return from_mapping(own, values, where)

    def check_model(self, model: str, text_to_image: bool) -> None:
        """Raise UserError where stage 1 of the model sees no picture, and the method does not put it in."""
        if text_to_image and self.sampler.background != "blended":
            raise UserError(
                f"method {self.name} needs an inpainting model, and {model} is text-to-image: take "
                "bld-hd-painter or another method whose sampler.background is blended"
            )

    def adjusted(self, adjustments: Adjustments) -> "Method":
        """A copy with the values that a user has set. Raises UserError where they do not fit the method."""
        return self.override(adjustments.by_place())

    def override(self, values: Mapping[str, Any]) -> "Method":
        """A copy with values replaced by their places: ``method.override({"sampler.steps": 20})``.

        Raises UserError for a place that no method has, or this one has switched off, and for a wrong value.
        """
        where = f"method {self.name}"
        check_keys(values, places(type(self)), where)  # type: ignore[arg-type]  # as in `Checked`
        self._refuse_foreign(values, where)
        merged = dataclasses.asdict(self)
        for place, value in values.items():
            part, _, key = place.rpartition(".")
            group = merged[part] if part else merged
            if group is None:
                raise UserError(f"{where} has no {part!r}, so {place} cannot be set")
            group[key] = value
        return self.from_values(merged, where)

    def _refuse_foreign(self, given: Iterable[str], where: str) -> None:
        """Raise UserError for a place that says nothing to this method."""
        if foreign := [place for place in given if self.has_no(place)]:
            raise UserError(f"{where}: {foreign[0]} says nothing to {self.kind}: leave it out")

    def has_no(self, place: str) -> bool:
        """Whether a place says nothing to this method."""
        return place in self.without or place.partition(".")[0] in self.without


@dataclass(frozen=True)
class UpsamplerSettings(Checked):
    """GLIDE's second network, 64 to 256 px; it has no guidance.

    steps: the timesteps that it takes, see `spaced_timesteps`.
    temperature: factor of the noise that it starts from; 1 is sharper, and grainier.
    """

    steps: str = "fast27"
    temperature: Annotated[float, Range(0.01, 10, "a factor from 0.01 to 10")] = 0.997

    def __post_init__(self) -> None:
        super().__post_init__()
        spaced_timesteps(self.steps)


@dataclass(frozen=True)
class GlideMethod(Method):
    """GLIDE's sampling (Nichol et al., 2021), by default its public notebook's.

    sampler: of the first network, of 64 px: `steps` and `guidance_scale`. glide: of the second.
    """

    kind: ClassVar[Kind] = "glide"
    without: ClassVar[tuple[str, ...]] = ("sampler.grid", "sampler.eta", "painta", "rasg", *_LATENT_MASKS)
    part: ClassVar[str] = "glide"  # by which its settings are known

    name: str = "glide"
    sampler: SamplerSettings = field(default_factory=lambda: SamplerSettings(steps=100, guidance_scale=5.0))
    glide: UpsamplerSettings = field(default_factory=UpsamplerSettings)


@dataclass(frozen=True)
class NuwaLipSettings(Checked):
    """How NUWA-LIP draws codes; its public program's way, but for `samples`, of which that takes 2.

    top_k: among so many of the likeliest; 1: always the likeliest.
    temperature: below 1 the likelier codes are favoured more.
    samples: pictures that are made, of which CLIP takes the one most like the prompt.
    """

    top_k: Annotated[int, Range(1, wanted="1 or more")] = 128
    temperature: Annotated[float, Range(0.01, 100, "a number from 0.01 to 100")] = 1.0
    samples: Annotated[int, Range(1, 100)] = 1


@dataclass(frozen=True)
class NuwaLipMethod(Method):
    """NUWA-LIP's sampling (Ni et al., 2023), which has neither steps nor guidance."""

    kind: ClassVar[Kind] = "nuwa-lip"
    without: ClassVar[tuple[str, ...]] = ("sampler", "prompts.negative", "painta", "rasg", *_LATENT_MASKS)
    part: ClassVar[str] = "nuwa_lip"

    name: str = "nuwa-lip"
    nuwa_lip: NuwaLipSettings = field(default_factory=NuwaLipSettings)


_PLACES: Mapping[str, Any] = {**places(Method), **places(GlideMethod), **places(NuwaLipMethod)}


def parse_places(text: str) -> dict[str, Any]:
    """Values of a method by their places from text, ``rasg.sigma=per_step,painta.smoothing=null``.

    What does not parse stays text, for `Method.override` to complain of.
    """
    values: dict[str, Any] = {}
    for part in re.split(r",(?=\s*[\w.]+=)", text):
        place, equals, value = (side.strip() for side in part.partition("="))
        if not equals:
            raise UserError(f"set {quoted(part)}: give a place and its value, such as rasg.sigma=per_step")
        kind = _PLACES.get(place, str)
        values[place] = None if value == "null" and required(kind) is not kind else parse(kind, value)
    return values


def method_names(kind: Kind | None = None) -> list[str]:
    """Names of the methods in ``configs/methods``; of those that go with one kind of pipelines."""
    names = sorted(path.stem for path in METHOD_FILES.glob("*.yaml"))
    return [name for name in names if kind is None or Method.load(name).kind == kind]


def describe(name: str) -> str:
    """What a method of ``configs/methods`` is, in one sentence: its file begins with it."""
    with (METHOD_FILES / f"{name}.yaml").open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()
