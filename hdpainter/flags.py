"""Flags that several commands share, under the same headings in the help of each.

Those of settings come from `JobSettings`: a field there is a flag here.
"""

import argparse
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from hdpainter.jobs.job import JobSettings, check_values, parse_values
from hdpainter.models.choice import ModelChoice
from hdpainter.models.registry import DEFAULT_MODEL
from hdpainter.settings import RESULTS, describe, method_names
from hdpainter.values import from_mapping, kinds, required

HEADINGS = ("input", "what to paint", "output", "model and method", "sampler", "stage 2", "machine")
# What is not the method's own comes first.
SETTINGS = {
    field.name: field.metadata
    for field in sorted(fields(JobSettings), key=lambda field: field.metadata["place"] is not None)
}
Groups = Mapping[str, argparse._ArgumentGroup]


def headings(parser: argparse.ArgumentParser) -> Groups:
    """A group of flags for each heading, in the order of the help, which leaves out those that stay empty."""
    return {heading: parser.add_argument_group(heading) for heading in HEADINGS}


def methods_told(parser: argparse.ArgumentParser) -> None:
    """End the help with one sentence about each method."""
    lines = (f"  {name:21} {describe(name)}" for name in method_names())
    wrapped = (textwrap.fill(line, 100, subsequent_indent=" " * 24) for line in lines)
    parser.epilog = "\n".join(("methods:", *wrapped))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def add_picture(groups: Groups) -> None:
    """The picture, the mask and the prompt of a command that takes one of each."""
    groups["input"].add_argument("--image", help="the picture")
    groups["input"].add_argument(
        "--mask", help="mask of the picture's size; white is filled (needed, except with --outpaint)"
    )
    groups["what to paint"].add_argument("--prompt", help="what to paint there")


# Of the authors' inpaint.py, Stable Diffusion's scripts and diffusers' examples; scripts move over by our name.
ALIASES = {
    "image": ("--image-path", "--init-img", "--init-image"),
    "mask": ("--mask-path", "--mask-image"),
    "out": ("--output-dir", "--outdir"),
    "model": ("--model-id",),
    "steps": ("--num-steps", "--ddim-steps", "--num-inference-steps"),
    "guidance_scale": ("--scale",),
    "eta": ("--rasg-eta", "--ddim-eta"),
    "num_samples": ("--n-samples", "--num-images-per-prompt"),
}
MODEL_ALIASES = {"ds8_inp": "dreamshaper8", "sd2_inp": "sd2", "sd15_inp": "sd15"}
SR_METHODS = ("inpainting_specialized", "baseline")
METHOD_ALIASES = {"baseline": "stable-inpainting", "painta+rasg": "hd-painter-release"}


def add_aliases(parser: argparse.ArgumentParser) -> None:
    """Other programs' names of a command's flags, and ours with _ for -, which the help does not show."""
    ours = {action.dest: action for action in parser._actions if action.nargs is None and not action.required}
    kinds: dict[str, Any] = {"out": Path, "model": lambda name: MODEL_ALIASES.get(name, name)}
    for dest, action in ours.items():
        names = [name for flag in ALIASES.get(dest, ()) for name in (flag, f"--{flag[2:].replace('-', '_')}")]
        names += [f"--{flag[2:].replace('-', '_')}" for flag in action.option_strings]
        if new := [name for name in dict.fromkeys(names) if name not in parser._option_string_actions]:
            parser.add_argument(*new, dest=dest, type=kinds.get(dest, str), help=argparse.SUPPRESS)
    if "crop_margin" in ours:
        parser.add_argument("--sr-method", "--sr_method", choices=SR_METHODS, help=argparse.SUPPRESS)


def add_trust(group: Any) -> None:
    """Whether configs of models may name classes of other projects; see `hdpainter.configs.read_yaml`."""
    group.add_argument(
        "--trust-config",
        action="store_true",
        help="let the model's configs name, and so run, code of other projects: if you have read them",
    )


def add_settings(groups: Groups, keys: Collection[str] = tuple(SETTINGS)) -> None:
    """The settings of jobs, each under the heading that it names itself."""
    for key in keys:
        flag, about = f"--{key.replace('_', '-')}", SETTINGS[key]
        group, text = groups[about["group"]], about["help"].replace("%", "%%")
        if required(kinds(JobSettings)[key]) is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        elif about["several"]:
            group.add_argument(flag, action="append", metavar="PLACE=VALUE", help=text)
        elif about["bare"] is not None:
            group.add_argument(flag, nargs="?", const=about["bare"], metavar="N", help=text)
        else:
            group.add_argument(flag, metavar=key.split("_")[-1].upper(), help=text)


def add_model(group: Any, default: str = DEFAULT_MODEL) -> None:
    """Which model: a pipeline, and weights in place of its own."""
    for field in fields(ModelChoice):
        flag, text = f"--{field.name}", field.metadata["help"]
        if field.name == "model":
            group.add_argument(flag, help=f"model (default: {default})")
        elif field.name == "lora":
            group.add_argument(flag, action="append", metavar="FILE[:SCALE]", help=text)
        elif field.name == "ema":
            group.add_argument(flag, action="store_true", default=None, help=text)
        else:
            group.add_argument(flag, metavar="FILE" if field.name == "checkpoint" else "KIND", help=text)


def model_choice(args: argparse.Namespace, otherwise: Mapping[str, Any] | None = None) -> ModelChoice:
    """What the command line says of the model, before what is said `otherwise`. Raises UserError."""
    said = {field.name: getattr(args, field.name) for field in fields(ModelChoice)}
    given = {key: value for key, value in said.items() if value is not None}
    return from_mapping(ModelChoice, {**(otherwise or {}), **given})


def add_machine(group: Any) -> None:
    """Where to compute, and in which numbers."""
    group.add_argument(
        "--device", help="cuda, cuda:1, mps or cpu (default: the first of these that is there)"
    )
    group.add_argument("--dtype", help="float32, bfloat16, float16 (default: by the device)")
    group.add_argument(
        "--offload",
        action="store_true",
        help="keep only the stage at work on the GPU, the other in main memory: less GPU memory, slower",
    )


def given(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line gives of a job's keys. The path of a method does not depend on the job file's folder.

    Raises UserError for a value of a wrong type or out of range.
    """
    keys = ("image", "mask", "prompt", "num_samples", *SETTINGS)
    values = {key: value for key in keys if (value := getattr(args, key, None)) is not None}
    values |= {key: ",".join(value) for key, value in values.items() if isinstance(value, list)}
    if getattr(args, "sr_method", None) == "baseline":
        values["set"] = ",".join(filter(None, (values.get("set"), "superres.blend=false")))
    if values.get("method") in METHOD_ALIASES:
        values["method"] = METHOD_ALIASES[values["method"]]
    values |= parse_values({key: value for key, value in values.items() if isinstance(value, str)})
    check_values(values)
    if Path(values.get("method", "")).suffix in (".yaml", ".yml", *RESULTS):
        values["method"] = str(Path(values["method"]).absolute())
    return values
