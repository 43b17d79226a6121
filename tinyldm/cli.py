"""The commands: `tinyldm sample`, `img2img`, `encode`, `decode`, `info`, … No math here.

Exit status: 0 done, 2 bad input (one line on standard error says what and what would be right), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyldm import __version__
from tinyldm.commands import golden as golden_commands
from tinyldm.errors import InputError, TinyldmError

if TYPE_CHECKING:
    from PIL import Image

    from tinyldm.pipelines.model import LatentDiffusion

SAMPLE_EXAMPLE = """example:
  tinyldm sample "red apple" -o apple.png
  tinyldm sample "fox" "owl" --steps 50 --seed 7 -n 4 -o animals.png
"""
IMG2IMG_EXAMPLE = """example:
  tinyldm img2img "green apple" --image apple.png --strength 0.6 -o green.png
"""
ENCODE_EXAMPLE = """example:
  tinyldm encode apple.png -o apple.safetensors
"""
DECODE_EXAMPLE = """example:
  tinyldm decode apple.safetensors -o apple-again.png
"""
INFO_EXAMPLE = """example:
  tinyldm info
  tinyldm info --model stable-diffusion-v1-5 --shapes --width 512 --height 512
"""

COST_EXAMPLE = """example:
  tinyldm cost
  tinyldm cost --architecture sd15 --steps 20
  tinyldm cost --architecture sdxl --width 1024 --height 768
"""

ARCHITECTURE_HELP = "random weights of a published one: sd15, sd15-taesd, sd21, sdxl, ldm-imagenet, ldm-celebahq"

BENCH_EXAMPLE = """example:
  tinyldm bench
  tinyldm bench --architecture sd15 --repeat 3 --json
"""

INSPECT_EXAMPLE = """example:
  tinyldm inspect v1-5-pruned-emaonly.safetensors
"""
CONVERT_EXAMPLE = """example:
  tinyldm convert v1-5-pruned-emaonly.ckpt stable-diffusion-v1-5 --dtype float16
"""

VERIFY_EXAMPLE = """example:
  tinyldm verify
  tinyldm verify stable-diffusion-v1-4 --case sd-v1-4-ddim
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    args = parser().parse_args(argv)
    try:
        with warnings_as_notes():
            return args.run(args) or 0
    except TinyldmError as error:
        if args.debug:
            raise
        print(f"tinyldm: error: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        if args.debug:
            raise
        hint = "; take fewer or smaller pictures, or --low-memory" if "low_memory" in args else ""
        print(f"tinyldm: error: not enough memory: {error}{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntinyldm: interrupted; nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # no second complaint at exit
        return 1


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Show a warning (words of a prompt that were cut) as one line, without the place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
        yield


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    p = argparse.ArgumentParser(
        prog="tinyldm",
        description="Latent diffusion in NumPy: pictures from prompts on a CPU.",
        epilog="`tinyldm COMMAND --help` shows a command's options and an example.",
    )
    p.add_argument("--version", action="version", version=f"tinyldm {__version__}")
    commands = p.add_subparsers(metavar="COMMAND", required=True)
    add_sample(commands)
    add_img2img(commands)
    add_encode(commands)
    add_decode(commands)
    add_info(commands)
    add_cost(commands)
    add_bench(commands)
    add_verify(commands)
    add_inspect(commands)
    add_convert(commands)
    golden_commands.add_commands(commands)
    return p


# The grammar of each command ----------------------------------------------------------------------------------------


def command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    """A new command."""
    p = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


def add_checkpoint_options(p: argparse.ArgumentParser) -> None:
    """How to read a checkpoint, where it leaves something open."""
    p.add_argument("--variant", metavar="NAME", help="prefer weight files with this in their names, such as fp16")
    p.add_argument("--config", metavar="FILE", type=Path, help="JSON: fields by component, or a published config.json")
    p.add_argument("--prediction-type", metavar="T", help="epsilon, v_prediction or sample, over what the file says")
    p.add_argument("--ema", action=argparse.BooleanOptionalAction, help="running average of the weights, or plain ones")


def checkpoint_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_checkpoint_options` as arguments."""
    from tinyldm.checkpoints.folder import read_json

    return {
        "variant": args.variant,
        "config": read_json(args.config) if args.config else None,
        "prediction_type": args.prediction_type,
        "ema": args.ema,
    }


def model_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    """A new command that loads a model: which, and how to compute it."""
    p = command(commands, name, summary, example)
    p.add_argument("--model", metavar="PATH", help="checkpoint, a folder or a file (default: the package's own)")
    add_checkpoint_options(p)
    p.add_argument("--vae", metavar="PATH", help="take the autoencoder from this checkpoint")
    p.add_argument("--text-encoder", metavar="PATH", help="take the text encoder from this checkpoint")
    p.add_argument("--lora", metavar="FILE[@SCALE]", action="append", default=[], help="merge a LoRA; may be repeated")
    p.add_argument(
        "--word", metavar="FILE", action="append", default=[], help="add a textual inversion; may be repeated"
    )
    p.add_argument("--backend", metavar="B", help="numba (default) or reference")
    p.add_argument("--dtype", metavar="D", default="float32", help="float32 (default), or float64 with reference")
    p.add_argument("--precision", metavar="P", help="fast (default) or strict, of the numba backend")
    p.add_argument("--threads", metavar="N", type=int, help="threads of the numba backend (default: all cores)")
    p.add_argument("--low-memory", action="store_true", help="read weights anew each time instead of keeping them")
    return p


def add_sampling_options(p: argparse.ArgumentParser) -> None:
    """The options that text-to-image and image-to-image share."""
    p.add_argument("-o", "--output", metavar="FILE", type=Path, help="PNG to write; several become name-0001.png, …")
    p.add_argument("--negative-prompt", metavar="TEXT", default="", help="what the picture should not be")
    p.add_argument(
        "--steps", metavar="N", type=int, help="steps of the sampler (default 25; of few-step models 1 or 4)"
    )
    p.add_argument(
        "--guidance-scale", metavar="G", type=float, help="pull of the prompt (default 7.5; of turbo models 0)"
    )
    p.add_argument(
        "--sampler",
        metavar="NAME",
        help="ddpm, ddim (default, but for few-step models), pndm, euler, euler_a, dpm++_2m, dpm++_2m_karras, lms, lcm",
    )
    p.add_argument("--seed", metavar="S", type=int, help="seed of the noise (default: drawn, and printed)")
    p.add_argument("-n", "--count", metavar="COUNT", type=int, default=1, help="pictures of each prompt (default 1)")


def add_sample(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`tinyldm sample`."""
    p = model_command(commands, "sample", "make pictures from prompts", SAMPLE_EXAMPLE)
    p.add_argument("prompt", metavar="PROMPT", nargs="*", help="what to show (a class-conditional model: its number)")
    add_sampling_options(p)
    p.add_argument("--width", metavar="W", type=int, help="in pixels (default: the model's own)")
    p.add_argument("--height", metavar="H", type=int, help="in pixels (default: the model's own)")
    p.add_argument("--grid", metavar="COLUMNS", type=int, help="write all pictures as one, in so many columns")
    p.set_defaults(run=run_sample)


def add_img2img(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`tinyldm img2img`."""
    p = model_command(commands, "img2img", "change a picture towards a prompt", IMG2IMG_EXAMPLE)
    p.add_argument("prompt", metavar="PROMPT", nargs="+", help="what the picture should become")
    p.add_argument("--image", metavar="FILE", type=Path, required=True, help="picture, or latent file of `encode`")
    p.add_argument("--strength", metavar="X", type=float, default=0.8, help="0 keeps, 1 replaces (default 0.8)")
    add_sampling_options(p)
    p.add_argument("--width", metavar="W", type=int, help="resize the picture to this width first")
    p.add_argument("--height", metavar="H", type=int, help="resize the picture to this height first")
    p.set_defaults(run=run_img2img)


def add_encode(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`tinyldm encode`."""
    p = model_command(commands, "encode", "encode a picture to a latent file", ENCODE_EXAMPLE)
    p.add_argument("image", metavar="IMAGE", type=Path, help="picture file")
    p.add_argument("-o", "--output", metavar="FILE", type=Path, help="safetensors file (default: beside the picture)")
    p.add_argument("--sample", action="store_true", help="draw from the posterior instead of taking its mean")
    p.add_argument("--seed", metavar="S", type=int, help="seed of the draw (default: drawn, and printed)")
    p.add_argument("--width", metavar="W", type=int, help="resize the picture to this width first")
    p.add_argument("--height", metavar="H", type=int, help="resize the picture to this height first")
    p.set_defaults(run=run_encode)


def add_decode(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`tinyldm decode`."""
    p = model_command(commands, "decode", "decode a latent file to a picture", DECODE_EXAMPLE)
    p.add_argument("latent", metavar="LATENT", type=Path, help="safetensors file that `encode` wrote")
    p.add_argument("-o", "--output", metavar="FILE", type=Path, help="PNG to write (default: beside the latent)")
    p.set_defaults(run=run_decode)


def add_info(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`tinyldm info`."""
    p = model_command(commands, "info", "describe a checkpoint and what will compute it", INFO_EXAMPLE)
    p.add_argument("--shapes", action="store_true", help="the shape of every intermediate")
    p.add_argument("--width", metavar="W", type=int, help="picture width for --shapes (default: the model's own)")
    p.add_argument("--height", metavar="H", type=int, help="picture height for --shapes (default: the model's own)")
    p.set_defaults(run=run_info)


def add_cost(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`tinyldm cost`."""
    p = model_command(commands, "cost", "count what a picture costs, and what the latent space saves", COST_EXAMPLE)
    p.add_argument("--architecture", metavar="NAME", help=ARCHITECTURE_HELP)
    p.add_argument("--steps", metavar="N", type=int, default=25, help="steps of the sampler (default 25)")
    p.add_argument("--width", metavar="W", type=int, help="in pixels (default: the model's own)")
    p.add_argument("--height", metavar="H", type=int, help="in pixels (default: the model's own)")
    p.set_defaults(run=run_cost)


def add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`tinyldm bench`."""
    p = model_command(commands, "bench", "time each model and operator on this machine", BENCH_EXAMPLE)
    p.add_argument("--architecture", metavar="NAME", help=ARCHITECTURE_HELP)
    p.add_argument("--width", metavar="W", type=int, help="in pixels (default: the model's own)")
    p.add_argument("--height", metavar="H", type=int, help="in pixels (default: the model's own)")
    p.add_argument("--repeat", metavar="N", type=int, default=5, help="runs of which the median counts (default 5)")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=run_bench)


def add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`tinyldm verify`."""
    p = model_command(commands, "verify", "run a case whose pixels are published, and compare", VERIFY_EXAMPLE)
    p.add_argument("path", metavar="PATH", nargs="?", help="checkpoint (default: the package's own)")
    p.add_argument("--case", metavar="NAME", help="which published case (default: all that the path's name tells)")
    p.set_defaults(run=run_verify)


def add_inspect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`tinyldm inspect`."""
    p = command(commands, "inspect", "say what a checkpoint is and what it holds", INSPECT_EXAMPLE)
    p.add_argument("file", metavar="PATH", help="a file or folder of weights, in any layout")
    p.add_argument("--summary", action="store_true", help="leave out the list of tensors")
    add_checkpoint_options(p)
    p.set_defaults(run=run_inspect)


def add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`tinyldm convert`."""
    p = command(commands, "convert", "write a checkpoint in another layout or type", CONVERT_EXAMPLE)
    p.add_argument("source", metavar="IN", help="a file or folder of weights, in any layout")
    p.add_argument("destination", metavar="OUT", help="a new folder, or a new file that ends in .safetensors")
    p.add_argument("--dtype", metavar="D", help="float32, float16 or bfloat16 (default: as they are)")
    add_checkpoint_options(p)
    p.set_defaults(run=run_convert)


# What each command does ---------------------------------------------------------------------------------------------


def open_model(args: argparse.Namespace) -> LatentDiffusion:
    """Load the checkpoint that the options name, and print what there is to note about it."""
    from tinyldm.pipelines.load import load

    model = load(
        args.model,
        backend=args.backend,
        dtype=args.dtype,
        precision=args.precision,
        threads=args.threads,
        low_memory=args.low_memory,
        **checkpoint_options(args),
        vae=args.vae,
        text_encoder=args.text_encoder,
        loras=[scaled(lora) for lora in args.lora],
        words=args.word,
    )
    for note in model.notes:
        print(f"note: {note}", file=sys.stderr)
    return model


def run_sample(args: argparse.Namespace) -> None:
    """Text to image."""
    from tinyldm.pipelines.pictures import grid, write_png
    from tinyldm.pipelines.text_to_image import latent_size

    started = time.perf_counter()
    if args.grid is not None and args.grid < 1:
        raise InputError(f"--grid must be 1 or more columns, not {args.grid}")
    count = max(len(args.prompt), 1) * args.count
    files = output_files(args, 1 if args.grid else count)
    seed = chosen_seed(args)
    model = open_model(args)
    model.single_run = True
    h, w = latent_size(model, args.height, args.width)
    fill_defaults(args, model)
    print_expectation(model, h, w, count)
    images = sample(args, model, seed)
    settings = {**sampling_settings(args, seed), "model": model.path.name}
    if args.grid:
        write_png(files[0], grid(images, args.grid), {"prompts": "\n".join(args.prompt), **settings})
    else:
        write_pictures(args, files, images, settings)
    print_result(files, seed, started)


def sample(args: argparse.Namespace, model: LatentDiffusion, seed: int) -> list[Image.Image]:
    """The pictures of prompts, of class numbers, or of nothing, whichever the model takes."""
    walk = {"steps": args.steps, "seed": seed, "sampler": args.sampler, "progress": progress_bar}
    walk |= {"height": args.height, "width": args.width}
    if model.class_embedder is not None:
        wrong = [p for p in args.prompt if not p.isascii() or not p.isdigit()]
        if wrong or not args.prompt:
            raise InputError(f"{model.path}: takes class numbers as prompts, not {wrong[0] if wrong else 'nothing'!r}")
        labels = [int(p) for p in args.prompt for _ in range(args.count)]
        return model.class_to_image(labels, guidance_scale=args.guidance_scale, **walk)
    if model.text_encoder is None and model.text_encoder_2 is None and not model.embeds_text:
        if args.prompt:
            raise InputError(f"{model.path}: takes no prompt; leave out {args.prompt[0]!r}")
        return model.unconditional(args.count, **walk)
    if not args.prompt:
        raise InputError(f"{model.path}: wants a prompt")
    return model.text_to_image(
        args.prompt,
        args.negative_prompt,
        guidance_scale=args.guidance_scale,
        num_images=args.count,
        **walk,
    )


def run_img2img(args: argparse.Namespace) -> None:
    """Image to image."""
    from tinyldm.pipelines.latents import is_latent_file, read_latent

    started = time.perf_counter()
    files = output_files(args, len(args.prompt) * args.count)
    seed = chosen_seed(args)
    image = read_latent(args.image) if is_latent_file(args.image) else resized_picture(args, args.image)
    model = open_model(args)
    model.single_run = True
    fill_defaults(args, model)
    images = model.image_to_image(
        args.prompt,
        image,
        args.negative_prompt,
        strength=args.strength,
        steps=args.steps,
        guidance_scale=args.guidance_scale,
        seed=seed,
        sampler=args.sampler,
        num_images=args.count,
        progress=progress_bar,
    )
    settings = {**sampling_settings(args, seed), "strength": args.strength, "image": args.image.name}
    write_pictures(args, files, images, {**settings, "model": model.path.name})
    print_result(files, seed, started)


def run_encode(args: argparse.Namespace) -> None:
    """Picture to latent."""
    from tinyldm.pipelines.latents import write_latent
    from tinyldm.pipelines.pictures import check_writable

    output = args.output or args.image.with_suffix(".safetensors")
    check_writable(output)
    image = resized_picture(args, args.image)
    seed = chosen_seed(args) if args.sample or args.seed is not None else None
    model = open_model(args)
    latent = model.encode(image, seed)
    write_latent(output, latent, model=model, source=args.image.name, seed=seed)
    drawn = "posterior mean" if seed is None else f"posterior draw, seed {seed}"
    print(f"{output}: latent {'×'.join(map(str, latent.shape))}, {drawn}")


def run_decode(args: argparse.Namespace) -> None:
    """Latent to picture."""
    from tinyldm.pipelines.latents import read_latent
    from tinyldm.pipelines.pictures import check_writable, write_png

    output = args.output or args.latent.with_suffix(".png")
    check_writable(output)
    latent = read_latent(args.latent)
    model = open_model(args)
    images = model.decode(latent)
    files = numbered(output, len(images))
    for file, image in zip(files, images, strict=True):
        write_png(file, image, {"Software": f"tinyldm {__version__}", "latent": args.latent.name})
        print(file)


def run_info(args: argparse.Namespace) -> None:
    """Describe a checkpoint."""
    from tinyldm.pipelines.describe import describe, describe_shapes

    model = open_model(args)
    print(describe(model))
    if args.shapes:
        print()
        print(describe_shapes(model, args.height, args.width))


def run_cost(args: argparse.Namespace) -> None:
    """Count multiply-adds."""
    from tinyldm.pipelines.describe import describe_cost

    if args.steps < 1:
        raise InputError(f"--steps must be 1 or more, not {args.steps}")
    print(describe_cost(model_or_architecture(args), args.height, args.width, args.steps))


def run_bench(args: argparse.Namespace) -> None:
    """Time the models."""
    from tinyldm.bench import bench
    from tinyldm.pipelines.text_to_image import latent_size

    if args.repeat < 1:
        raise InputError(f"--repeat must be 1 or more, not {args.repeat}")
    model = model_or_architecture(args)
    h, w = latent_size(model, args.height, args.width)
    factor = model.vae.config.factor
    report = bench(model, h * factor, w * factor, args.repeat, progress=lambda name: print(name, file=sys.stderr))
    print(json.dumps(report.as_json(), indent=2) if args.json else report.as_text())


def run_verify(args: argparse.Namespace) -> int:
    """Run published cases; the exit status is 1 where one fails."""
    from tinyldm.verify import choose_cases, run_case

    args.model = args.path or args.model
    model = open_model(args)
    verdicts = []
    for case in choose_cases(model, args.case):
        verdicts.append(run_case(model, case))
        print(verdicts[-1])
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def run_inspect(args: argparse.Namespace) -> None:
    """Report on a checkpoint."""
    from tinyldm.checkpoints.inspect import inspect
    from tinyldm.models.build import expected

    print(inspect(args.file, expected, tensors=not args.summary, **checkpoint_options(args)))


def run_convert(args: argparse.Namespace) -> None:
    """Write a checkpoint anew."""
    from tinyldm.checkpoints.convert import convert
    from tinyldm.text.tokenizer_folder import TOKENIZERS

    options = checkpoint_options(args)
    found = convert(args.source, args.destination, args.dtype, tokenizers=TOKENIZERS, **options)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{args.destination}: {found.title}")


# Parts of them ------------------------------------------------------------------------------------------------------


def model_or_architecture(args: argparse.Namespace) -> Any:
    """The checkpoint that the options name, or a published architecture with random weights."""
    from tinyldm.architectures import random_model
    from tinyldm.runtime import Runtime

    if args.architecture is None:
        return open_model(args)
    runtime = Runtime.choose(args.backend, args.dtype, args.precision, args.threads, args.low_memory)
    return random_model(args.architecture, runtime)


def scaled(lora: str) -> tuple[str, float]:
    """The file and the scale of `FILE@SCALE`; the scale may be left out."""
    path, at, scale = lora.rpartition("@")
    if not at:
        return lora, 1.0
    try:
        return path, float(scale)
    except ValueError:
        return lora, 1.0  # an @ in the name of the file


def chosen_seed(args: argparse.Namespace) -> int:
    """The seed that was given, or one that is drawn."""
    return secrets.randbits(32) if args.seed is None else args.seed


def output_files(args: argparse.Namespace, count: int) -> list[Path]:
    """The files to write, checked to be writable before any work; the default name is made of the prompt."""
    from tinyldm.pipelines.pictures import check_writable

    if args.count < 1:
        raise InputError(f"-n must be 1 or more, not {args.count}")
    name = re.sub(r"\W+", "-", "".join(args.prompt[:1])).strip("-")[:60] or "picture"
    files = numbered(args.output or Path(f"{name}.png"), count)
    if args.output is None:
        files = [unused(file) for file in files]
    for file in files:
        if file.suffix.lower() != ".png":
            raise InputError(f"{file}: pictures are written as PNG, so the name must end in .png")
        check_writable(file)
    return files


def numbered(path: Path, count: int) -> list[Path]:
    """`name.png`, or `name-0001.png`, `name-0002.png`, … for several."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{i:04d}{path.suffix}") for i in range(1, count + 1)]


def unused(path: Path) -> Path:
    """A name that no file has yet: where no name was asked for, none is overwritten."""
    candidate, i = path, 1
    while candidate.exists():
        i += 1
        candidate = path.with_name(f"{path.stem}-{i}{path.suffix}")
    return candidate


def resized_picture(args: argparse.Namespace, path: Path) -> Image.Image:
    """The picture of a file, resized where `--width` or `--height` ask for it."""
    from PIL import Image

    from tinyldm.pipelines.pictures import read_image

    image = read_image(path)
    size = (args.width or image.width, args.height or image.height)
    if min(size) < 1:
        raise InputError(f"--width and --height must be positive, not {size[0]} and {size[1]}")
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def fill_defaults(args: argparse.Namespace, model: LatentDiffusion) -> None:
    """Put the model's own steps, guidance scale and sampler where none are given."""
    filled = model.defaults.filled(args.steps, args.guidance_scale, args.sampler)
    args.steps, args.guidance_scale, args.sampler = filled


def sampling_settings(args: argparse.Namespace, seed: int) -> dict[str, object]:
    """What a picture's metadata says of how it was made."""
    return {
        "Software": f"tinyldm {__version__}",
        "negative_prompt": args.negative_prompt,
        "steps": args.steps,
        "guidance_scale": args.guidance_scale,
        "sampler": args.sampler,
        "seed": seed,
    }


def write_pictures(
    args: argparse.Namespace, files: Sequence[Path], images: Sequence[Image.Image], settings: dict[str, object]
) -> None:
    """Write each picture with its prompt, its place in the batch and the settings as PNG text."""
    from tinyldm.pipelines.pictures import write_png

    for i, (file, image) in enumerate(zip(files, images, strict=True)):
        prompt = args.prompt[i // args.count] if args.prompt else ""
        place = {"prompt": prompt, "index": i, "batch": len(files)}
        write_png(file, image, {**place, **settings, "width": image.width, "height": image.height})


def progress_bar(steps: range) -> Iterator[int]:
    """A progress bar over the sampler's steps: steps, seconds a step, time left."""
    from tqdm import tqdm

    bar = "{l_bar}{bar:24}| {n_fmt}/{total_fmt} steps, {rate_inv_fmt}, {remaining} left"
    return iter(tqdm(steps, desc="sampling", unit="step", bar_format=bar))


def print_expectation(model: LatentDiffusion, h: int, w: int, count: int) -> None:
    """Say what a run will take before it begins."""
    from tinyldm.pipelines.describe import expected_bytes, human_bytes, machine_bytes

    size = f"{w * model.vae.config.factor}×{h * model.vae.config.factor}"
    pictures = "1 picture" if count == 1 else f"{count} pictures"
    needed, there = expected_bytes(model, h, w, count), machine_bytes()
    print(
        f"{pictures} of {size}, about {human_bytes(needed)} of memory; time left is shown after the first step",
        file=sys.stderr,
    )
    if there is not None and needed > there:
        lower = expected_bytes(model, h, w, count, low_memory=True)
        hint = f"; with --low-memory it is about {human_bytes(lower)}" if lower < needed else ""
        print(f"note: this machine has {human_bytes(there)} of memory{hint}", file=sys.stderr)


def print_result(files: Sequence[Path], seed: int, started: float) -> None:
    """Say what was written, from which seed, and how long it took."""
    for file in files:
        print(file)
    print(f"seed {seed}, {time.perf_counter() - started:.1f} s")
