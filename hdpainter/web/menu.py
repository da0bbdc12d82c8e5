"""What may be chosen, and the check of what was: nothing that a client names is taken as a file of the server."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from math import isfinite
from numbers import Real
from typing import Any

from hdpainter.jobs.job import JobSettings
from hdpainter.models.registry import PipelineSpec, find_checkpoint, pipeline_names
from hdpainter.settings import Method, method_names
from hdpainter.web.limits import Limits
from hdpainter.web.recipes import Recipe
from ldm.util import UserError

PROMPT_LENGTH = 1000
MAX_SIZE = 2048  # of stage 1
SEEDS = 1_000_000  # to draw one from: short enough to be read


@dataclass(frozen=True)
class Menu:
    """models: the pipelines that are installed, the first by default, and whether each has its upscaler."""

    models: dict[str, bool]
    limits: Limits
    methods: list[str] = field(default_factory=method_names)

    def spec(self, model: str) -> PipelineSpec:
        """Raises UserError for a model that is not on the menu."""
        return PipelineSpec.load(known(model, self.models, "model"))

    def method(self, method: str) -> Method:
        """Raises UserError for a method that is not on the menu."""
        return Method.load(known(method, self.methods, "method"))

    def check_superres(self, model: str, superres: bool) -> None:
        """Raises UserError where super-resolution is wanted and the model has none."""
        if superres and not self.models[known(model, self.models, "model")]:
            raise UserError(f"the upscaler of {model} is not installed: switch super-resolution off")

    def recipe(
        self,
        prompt: str,
        model: str,
        method: str | None,
        seed: float,
        steps: float | None = None,
        guidance_scale: float | None = None,
        eta: float | None = None,
        negative_prompt: str | None = None,
        size: float | None = None,
        superres: bool = True,
    ) -> Recipe:
        """The recipe of a form's values, where numbers may be whole floats; None, and 0 for `size`: the default.

        Pixels outside the mask stay bit-identical by every method, as the page promises.
        Raises UserError for what is not on the menu, out of range or over the limits.
        """
        numbers = {"steps": steps, "guidance_scale": guidance_scale, "eta": eta, "size": size}
        _check(
            str,
            "a text",
            prompt=prompt,
            model=model,
            method=method or "",
            negative_prompt=negative_prompt or "",
        )
        _check(Real, "a number", seed=seed, **{key: n for key, n in numbers.items() if n is not None})
        _check(bool, "true or false", superres=superres)
        if not prompt.strip():
            raise UserError("the prompt is empty: say what to paint")
        if max(len(prompt), len(negative_prompt or "")) > PROMPT_LENGTH:
            raise UserError(f"the prompt is longer than {PROMPT_LENGTH} characters: make it shorter")
        if steps is not None and steps > self.limits.steps:
            raise UserError(f"steps is {steps:g}: this server makes up to {self.limits.steps}")
        if not 0 <= (size or 0) <= MAX_SIZE:
            raise UserError(f"size is {size:g}: give up to {MAX_SIZE}, or 0 for the model's own")
        self.check_superres(model, superres)
        settings = JobSettings(
            method=known(method or self.spec(model).method, self.methods, "method"),
            seed=int(seed),
            steps=None if steps is None else int(steps),
            guidance_scale=None if guidance_scale is None else float(guidance_scale),
            eta=None if eta is None else float(eta),
            negative_prompt=negative_prompt or None,
            size=int(size) if size else None,
            superres=superres,
            known_region="exact",
        )
        recipe = Recipe(model, prompt.strip(), settings)
        _ = recipe.method  # raises for values out of range
        return recipe


def _check(kind: type, said: str, **values: Any) -> None:
    """Raises UserError for a value of another kind than the field's: a script may send anything."""
    for name, value in values.items():
        right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not right or (isinstance(value, float) and not isfinite(value)):
            shown = value if isinstance(value, float) else json.dumps(value)
            raise UserError(f"{name} is {shown}: give {said}")


def known(name: str, names: Collection[str], what: str) -> str:
    """`name`, if it is one of `names`; else raises UserError."""
    if name not in names:
        raise UserError(f"unknown {what} {name!r}; known: {', '.join(names)}")
    return name


def installed(first: str) -> dict[str, bool]:
    """The pipelines whose stage 1 is here, `first` in front, and whether stage 2 is too.

    first: a pipeline's name or YAML file. Raises UserError where its checkpoint is missing.
    """
    spec = PipelineSpec.load(first)
    find_checkpoint(spec.inpainting.checkpoint)
    models = {first: _here(spec, "upscaler")}
    for name in pipeline_names():
        spec = PipelineSpec.load(name)
        if name not in models and _here(spec, "inpainting"):
            models[name] = _here(spec, "upscaler")
    return models


def _here(spec: PipelineSpec, stage: str) -> bool:
    try:
        return stage in spec.stages and find_checkpoint(spec.stages[stage].checkpoint).is_file()
    except UserError:
        return False
