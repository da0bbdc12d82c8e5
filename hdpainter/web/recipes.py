"""The same picture by the command line or from a batch file."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hdpainter.configs import format_yaml
from hdpainter.jobs.job import JobSettings
from hdpainter.settings import Method
from hdpainter.values import at


@dataclass(frozen=True)
class Recipe:
    """What determines a picture besides photo and mask.

    chosen: what tells the model, by the keys of `ModelChoice`, where its name does not.
    """

    model: str
    prompt: str
    settings: JobSettings
    chosen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> Method:
        """The method with the settings in it. Raises UserError for an unknown name or a value out of range."""
        return self.settings.resolve()

    @property
    def told_model(self) -> Mapping[str, Any]:
        """What tells the model, by the keys of `ModelChoice`."""
        return self.chosen or {"model": self.model}

    @property
    def given(self) -> dict[str, Any]:
        """The settings that have to be told: method and seed, and what is not the method's own value."""
        plain = self.settings.unadjusted
        told = {"method": self.settings.method, "seed": self.settings.seed}
        for one in fields(JobSettings):
            value, place = getattr(self.settings, one.name), one.metadata["place"]
            if value != one.default and not (place and value == at(plain, place)):
                told[one.name] = value
        return told

    def at(self, **settings: Any) -> "Recipe":
        """A copy with other settings."""
        return replace(self, settings=replace(self.settings, **settings))


def as_command(image: str, mask: str, recipes: Sequence[Recipe]) -> str:
    """The lines for a shell that make the same pictures from files of these names."""
    lines = []
    for recipe in recipes:
        words = ["hdpainter", "inpaint"]
        out = f"{result_name(image, recipe)}.png"
        values = {"image": image, "mask": mask, "prompt": recipe.prompt}
        for key, value in {**recipe.told_model, **values, **recipe.given, "out": out}.items():
            flag = key.replace("_", "-")
            if isinstance(value, tuple):  # LoRAs
                words += [word for one in value for word in (f"--{flag}", one)]
            elif isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            elif str(value).startswith("-"):  # or it would be taken for a flag
                words.append(f"--{flag}={value}")
            else:
                words += [f"--{flag}", str(value)]
        lines.append(shlex.join(words))
    return "\n".join(lines)


def as_yaml(image: str, mask: str, recipes: Sequence[Recipe]) -> str:
    """The job file for ``hdpainter batch`` that makes the same pictures from files of these names beside it."""
    jobs = [
        {
            "name": result_name(image, recipe),
            "image": image,
            "mask": mask,
            "prompt": recipe.prompt,
            **recipe.given,
        }
        for recipe in recipes
    ]
    model = {key: list(v) if isinstance(v, tuple) else v for key, v in recipes[0].told_model.items()}
    content = {**model, "jobs": jobs}
    return format_yaml(content)


def result_name(image: str, recipe: Recipe) -> str:
    """A name for the result of the image file of that name, one that every file system takes."""
    stem = re.sub(r'[/\\:*?"<>|\x00-\x1f\x7f]', "_", Path(image).stem).strip(" .") or "photo"
    return f"{stem}-{recipe.settings.method}-{recipe.settings.seed}"
