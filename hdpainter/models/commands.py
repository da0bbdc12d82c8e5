"""The command line of the models: ``hdpainter models list|download|verify|convert|merge``."""

import argparse
from pathlib import Path

from hdpainter import flags
from hdpainter.configs import read_model_config
from hdpainter.files import file_sha256, make_folder
from hdpainter.models.download import download
from hdpainter.models.hashes import checkpoint_sha256, claimed_sha256, record_sha256, sha256_file
from hdpainter.models.registry import (
    MODELS,
    Checkpoint,
    PipelineSpec,
    checkpoint_folders,
    find_checkpoint,
    is_here,
    pipeline_names,
    registry,
)
from hdpainter.values import unknown
from ldm.util import UserError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add ``models`` to the commands; the parsed arguments have a `run(args)` that returns the exit status."""
    parser = subparsers.add_parser("models", help="list, download, verify and convert checkpoints")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser(
        "list", help="known models: file, size, licence, and whether the file is here"
    )
    command.set_defaults(run=run_list)

    command = commands.add_parser("download", help="fetch checkpoints; broken transfers are continued")
    command.add_argument("names", nargs="+", metavar="NAME", help="a model or checkpoint that `list` shows")
    command.add_argument(
        "--to", type=Path, metavar="FOLDER", help="default: the first folder that `list` shows"
    )
    command.set_defaults(run=run_download)

    command = commands.add_parser("verify", help="check files: hash, keys and shapes")
    command.add_argument(
        "names", nargs="+", metavar="NAME", help="a model or checkpoint that `list` shows, or a file"
    )
    command.add_argument(
        "--config", type=Path, metavar="YAML", help="the model's config, for files of other names"
    )
    flags.add_trust(command)
    command.set_defaults(run=run_verify)

    command = commands.add_parser(
        "convert", help="a .ckpt file or a diffusers folder into a .safetensors file"
    )
    command.add_argument("source", type=Path, help="a .ckpt file or a diffusers folder")
    command.add_argument("target", type=Path, help="the .safetensors file to write")
    command.add_argument(
        "--dtype", help="float32, bfloat16 or float16, of the weights (default: as they are)"
    )
    command.add_argument(
        "--ema", action="store_true", help="take the moving averages (model_ema.*) as the weights"
    )
    command.set_defaults(run=run_convert)

    command = commands.add_parser(
        "merge", help="make a fine-tune into an inpainting model: fine-tune + (inpainting - base)"
    )
    command.add_argument(
        "--add-difference", type=Path, required=True, metavar="A", help="the fine-tune, a file or folder"
    )
    command.add_argument(
        "--inpainting", type=Path, required=True, metavar="B", help="the inpainting model of its family"
    )
    command.add_argument(
        "--base", type=Path, required=True, metavar="C", help="the model that A and B were trained from"
    )
    command.add_argument("target", type=Path, help="the .safetensors file to write")
    command.add_argument(
        "--dtype", help="float32, bfloat16 or float16, of the weights (default: as B has them)"
    )
    command.set_defaults(run=run_merge)


def run_list(args: argparse.Namespace) -> int:
    """Print the pipelines and the public checkpoints."""
    print(f"{'MODEL':<24}CHECKPOINTS")
    for name in pipeline_names():
        stages = PipelineSpec.load(name).stages.values()
        print(f"{name:<24}{', '.join(_state(stage.checkpoint) for stage in stages)}")
    print(f"\n{'CHECKPOINT':<24}{'SIZE':<10}{'LICENCE':<27}FILE")
    for entry in registry().values():
        size = f"~{entry.approximate_bytes / 1e9:.2f} GB" if entry.approximate_bytes else "?"
        print(f"{entry.name:<24}{size:<10}{entry.licence:<27}{_state(entry.file)}")
    print(f"\nCheckpoints are looked for in {', '.join(map(str, checkpoint_folders()))}")
    return 0


def _state(file: str) -> str:
    return f"{Path(file).name} ({'here' if is_here(file) else 'not here'})"


def run_download(args: argparse.Namespace) -> int:
    """Download what `args.names` stands for and is not here yet."""
    wanted = {entry.file: entry for name in args.names for entry in _entries(name)}
    for entry in wanted.values():
        folder = args.to or checkpoint_folders()[0]
        there = folder / entry.file
        if not args.to and is_here(entry.file):
            there = find_checkpoint(entry.file)
        if there.is_file():
            print(f"{there} is here already; to check it: hdpainter models verify {entry.name}")
            continue
        if entry.note and not entry.sources:
            raise UserError(
                f"{entry.file} cannot be downloaded: {entry.note}; if you have it, put it into {folder}"
            )
        make_folder(folder)
        print(f"{entry.title}, licence: {entry.licence}")
        path = download(
            entry.sources, folder / entry.file, sha256=entry.sha256, approximate_bytes=entry.approximate_bytes
        )
        print(f"{path} SHA-256 {checkpoint_sha256(path)}")
    return 0


def _entries(name: str) -> list[Checkpoint]:
    """The registered checkpoints that the name of one, or of a pipeline, stands for."""
    entries = registry()
    if name in entries:
        return [entries[name]]
    if name not in pipeline_names():
        raise unknown("model or checkpoint", name, [*pipeline_names(), *entries])
    stages = PipelineSpec.load(name).stages.values()
    files = {Path(stage.checkpoint).name for stage in stages}
    found = [entry for entry in entries.values() if entry.file in files]
    if not found and not all(is_here(stage.checkpoint) for stage in stages):
        raise UserError(
            f"the checkpoints of {name} are no public files, and missing here: "
            f"{', '.join(sorted(files))}; put them into {checkpoint_folders()[0]}"
        )
    if not found:
        print(f"{name} is here already; it is not downloaded")
    return found


def run_verify(args: argparse.Namespace) -> int:
    """Check hash and layout of what `args.names` stands for; status 1 if anything is wrong."""
    bad = 0
    for name in args.names:
        for path, config, sha256 in _to_verify(name, args.config):
            problems, digest = verify(path, config, sha256, args.trust_config)
            bad += bool(problems)
            print(f"{path}: {'; '.join(problems) or f'keys and shapes fit {config.name}'}; SHA-256 {digest}")
    return 1 if bad else 0


def _to_verify(name: str, config: Path | None) -> list[tuple[Path, Path, str | None]]:
    """(file, config, recorded hash) of a name or of a file."""
    if name not in registry() and name in pipeline_names():
        stages = PipelineSpec.load(name).stages.values()
        files = [(find_checkpoint(s.checkpoint), Path(s.config)) for s in stages if s.config]
    elif name in registry():
        entry = registry()[name]
        files = [(find_checkpoint(entry.file), MODELS / entry.config)]
    else:
        known = (MODELS / e.config for e in registry().values() if Path(e.file).stem == Path(name).stem)
        of = config or next(known, None)
        if of is None:
            raise UserError(
                f"{name} is not a registered checkpoint; say which model it is of with --config YAML"
            )
        files = [(Path(name), of)]
    hashes = {entry.file: entry.sha256 for entry in registry().values()}
    return [(path, config or of, hashes.get(path.name)) for path, of in files]


def verify(path: Path, config: Path, sha256: str | None, trusted: bool = False) -> tuple[list[str], str]:
    """(what is wrong with a checkpoint, its hash).

    The hash must be `sha256`, or else the one recorded when the file was downloaded or last verified; names and
    shapes must be those of the model's config, and values finite. The hash of a file that passes is recorded.
    trusted: whether the config may name classes of other projects.
    Raises UserError if the file cannot be read as a checkpoint.
    """
    from ldm.checkpoint import build, misfit, read_state_dict  # torch takes seconds to import

    weights = read_state_dict(path)
    problems = []
    if problem := misfit(build(read_model_config(config, trusted)), weights):
        problems.append(f"does not fit {config.name}: {problem}")
    broken = [name for name, t in weights.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        problems.append(f"{len(broken)} tensors have infinite values or NaN ({', '.join(broken[:3])})")
    digest = file_sha256(path)
    expected = sha256 or claimed_sha256(path) or digest
    if digest != expected:
        where = "the registry" if sha256 else sha256_file(path)
        problems.append(f"its SHA-256 should be {expected}, as recorded in {where}")
    if not problems:
        record_sha256(path, digest)
    return problems, digest


def run_convert(args: argparse.Namespace) -> int:
    """Convert `args.source` to `args.target`."""
    from hdpainter.models.convert import convert  # torch takes seconds to import
    from hdpainter.models.devices import dtype_named

    dtype = dtype_named(args.dtype) if args.dtype else None
    make_folder(args.target.parent)
    dropped = convert(args.source, args.target, dtype=dtype, ema=args.ema)
    if dropped:
        print(f"left out: {', '.join(dropped)}")
    print(f"wrote {args.target} ({args.target.stat().st_size / 1e9:.2f} GB)")
    return 0


def run_merge(args: argparse.Namespace) -> int:
    """Merge `args.add_difference`, `args.inpainting` and `args.base` to `args.target`."""
    from hdpainter.models.devices import dtype_named  # torch takes seconds to import
    from hdpainter.models.merge import add_difference

    dtype = dtype_named(args.dtype) if args.dtype else None
    make_folder(args.target.parent)
    add_difference(args.add_difference, args.inpainting, args.base, args.target, dtype)
    print(f"wrote {args.target} ({args.target.stat().st_size / 1e9:.2f} GB)")
    return 0
