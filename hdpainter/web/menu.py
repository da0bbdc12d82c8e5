"""What may be chosen, and the check of what was: nothing that a client names is taken as a file of the server."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from hdpainter.jobs.job import JobSettings
from hdpainter.models.registry import PipelineSpec, check_method, find_checkpoint, is_here, pipeline_names
from hdpainter.settings import Method, method_names
from hdpainter.values import convert, from_mapping
from hdpainter.web.limits import Limits
from hdpainter.web.recipes import Recipe
from ldm.util import UserError

PROMPT_LENGTH = 1000
MAX_SIZE = 2048  # of stage 1
# What the page's form has, by the names that `Menu.recipe` takes; beside it, the seed.
FORM = (
    *("prompt", "model", "method", "steps", "guidance_scale", "eta"),
    *("negative_prompt", "size", "known_region", "superres"),
)
BLANK = {"method": "", "negative_prompt": "", "size": 0}  # how a form leaves these open
SEEDS = 1_000_000  # to draw one from: short enough to be read


@dataclass(frozen=True)
class Menu:
    """models: the pipelines that are installed, the first by default, and whether each has its upscaler.

    own: the first where it has weights of its own; `chosen` tells it by the keys of `ModelChoice`.
    """

    models: dict[str, bool]
    limits: Limits
    own: PipelineSpec | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def methods(self) -> list[str]:
        """Those that go with any of the models."""
        kinds = {self.spec(model).kind for model in self.models}
        return sorted(name for kind in kinds for name in method_names(kind))

    def spec(self, model: str) -> PipelineSpec:
        """Raises UserError for a model that is not on the menu."""
        return PipelineSpec.load(self.resolve(known(model, self.models, "model")))

    def resolve(self, model: str) -> str | PipelineSpec:
        """What `load` and `identify` take for a model of the menu."""
        return self.own if self.own is not None and self.own.name == model else model

    def method(self, method: str) -> Method:
        """Raises UserError for a method that is not on the menu."""
        return Method.load(known(method, self.methods, "method"))

    def check_superres(self, model: str, superres: bool) -> None:
        """Raises UserError where super-resolution is wanted and the model has none."""
        if superres and not self.models[known(model, self.models, "model")]:
            raise UserError(f"the upscaler of {model} is not installed: switch super-resolution off")

    def recipe(self, prompt: Any, model: Any, **settings: Any) -> Recipe:
        """The recipe of what a form or a script sends: whatever it is, as nobody has checked it yet.

        settings: values of `JobSettings` by name; None, and what BLANK has, leave one to the method or the model.
        Pixels outside the mask stay bit-identical by every method, as the page promises, unless `known_region` is
        told.
        Raises UserError for what is not on the menu, out of range or over the limits.
        """
        prompt, model = convert(str, prompt, "prompt").strip(), convert(str, model, "model")
        given: dict[str, Any] = {
            key: None if key in BLANK and value == BLANK[key] else value for key, value in settings.items()
        }
        wanted: JobSettings = from_mapping(
            JobSettings, given | {"known_region": given.get("known_region") or "exact"}
        )
        if max(len(prompt), len(wanted.negative_prompt or "")) > PROMPT_LENGTH:
            raise UserError(f"the prompt is longer than {PROMPT_LENGTH} characters: make it shorter")
        if (wanted.size or 0) > MAX_SIZE:
            raise UserError(f"size is {wanted.size}: give up to {MAX_SIZE}, or 0 for the model's own")
        known(model, self.models, "model")
        self.check_superres(model, wanted.superres)
        name = known(wanted.method or self.spec(model).method, self.methods, "method")
        method = Method.load(name)
        check_method(method, self.spec(model).kind, model)
        # The form sends all its fields, whatever the method.
        foreign: dict[str, Any] = {
            f.name: None for f in fields(JobSettings) if method.has_no(f.metadata["place"] or "")
        }
        chosen = {} if self.resolve(model) == model else self.chosen
        recipe = Recipe(model, prompt, replace(wanted, method=name, **foreign), chosen)
        made_by = recipe.method  # raises for values that do not fit it
        steps = max(made_by.sampler.steps, made_by.superres.steps if wanted.set else 0)
        if steps > self.limits.steps:
            raise UserError(f"steps is {steps}: this server makes up to {self.limits.steps}")
        return recipe

    def recipe_of(self, record: Mapping[str, Any]) -> Recipe:
        """The recipe of a finished picture's record, by the first model where its own is not here.

        Raises UserError for one that is no record, or whose method is not on the menu.
        """
        try:
            inputs = record["inputs"]
            model, method = inputs["model"]["name"], inputs["method"]
            settings = {
                "method": method["name"],
                "steps": method["sampler"]["steps"],
                "guidance_scale": method["sampler"]["guidance_scale"],
                "eta": method["sampler"]["eta"],
                "negative_prompt": method["prompts"]["negative"],
                "seed": inputs["seed"],
                "size": inputs["size"],
                "known_region": method["known_region"],
            }
            model = model if model in self.models else next(iter(self.models))
            superres = bool(inputs["superres"]) and self.models[model]
            return self.recipe(inputs["prompt"], model, superres=superres, **settings)
        except (KeyError, TypeError) as error:
            raise UserError(f"this is no record of a picture: {error}") from None


def known(name: str, names: Collection[str], what: str) -> str:
    """`name`, if it is one of `names`; else raises UserError."""
    if name not in names:
        raise UserError(f"unknown {what} {name!r}; known: {', '.join(names)}")
    return name


def installed(first: str | PipelineSpec) -> dict[str, bool]:
    """The pipelines whose stage 1 is here, `first` in front, and whether stage 2 is too.

    first: a pipeline, its name or YAML file. Raises UserError where its checkpoint is missing.
    """
    spec = PipelineSpec.load(first)
    for stage in spec.stage1.values():
        find_checkpoint(stage.checkpoint)
    models = {first if isinstance(first, str) else spec.name: _upscaler_here(spec)}
    for name in pipeline_names():
        spec = PipelineSpec.load(name)
        if name not in models and all(is_here(stage.checkpoint) for stage in spec.stage1.values()):
            models[name] = _upscaler_here(spec)
    return models


def _upscaler_here(spec: PipelineSpec) -> bool:
    return spec.upscaler is not None and is_here(spec.upscaler.checkpoint)
