"""Checkpoints: what the published folder holds, what damage a reader notices, which attacks it refuses, and a LoRA."""

from __future__ import annotations

import json
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from drawing import sheet, write_numbers, write_table

import tinyldm
from tinyldm.checkpoints.embedded import embedded
from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.checkpoints.source import open_source
from tinyldm.checkpoints.torch_tensors import BUILDERS
from tinyldm.ops.bfloat16 import rounded

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "checkpoints"))
from pickles import archive, call, mapping, number, sequence, tensor, text

Tensors = dict[str, np.ndarray]
UNET = "unet/diffusion_pytorch_model.safetensors"
PROMPTS = ("red apple", "owl")


# The folder and its bytes ---------------------------------------------------------------------------------------------

SAYS = {
    "model_index.json": "which components there are, and of which class",
    "scheduler/scheduler_config.json": "the noise schedule, and what the UNet predicts",
    "text_encoder/config.json": "width, layers and heads of the text encoder",
    "text_encoder/model.safetensors": "its weights",
    "tokenizer/merges.txt": "which pairs of pieces make a larger piece, in order",
    "tokenizer/tokenizer.json": "the tokenizer once more, in one file",
    "tokenizer/tokenizer_config.json": "its special tokens",
    "tokenizer/vocab.json": "the number of each piece",
    "unet/config.json": "channels, blocks and heads of the UNet",
    UNET: "its weights",
    "vae/config.json": "the same of the autoencoder, and the scaling factor",
    "vae/diffusion_pytorch_model.safetensors": "its weights",
}


def the_folder(folder: Path, model: Path) -> dict[str, str]:
    """What is in the published folder, and how its weights are distributed over shapes."""
    sizes_of = {path: (model / path).stat().st_size for path in SAYS}
    rows = [(f"`{path}`", f"{sizes_of[path]:,}", said) for path, said in SAYS.items()]
    write_table(folder / "checkpoint_files-folder.md", ("file", "bytes", "what it says"), rows)
    weights = sum(size for path, size in sizes_of.items() if path.endswith(".safetensors"))
    source = open_source(model / UNET)
    shapes = Counter(source.shape(n) for n in source.names)
    commonest, count = shapes.most_common(1)[0]
    return {
        "weights_share": f"{100 * weights / sum(sizes_of.values()):.1f}",
        "tensors": str(len(source)),
        "shapes": str(len(shapes)),
        "commonest": f"`{commonest}`",
        "commonest_count": str(count),
        "allowed": str(len(BUILDERS)),
    }


def the_bytes(folder: Path, file: Path) -> None:
    """The beginning of a safetensors file, piece by piece."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[8:end].decode()
    first = next(n for n in json.loads(header) if n != "__metadata__")
    pieces = {
        '{"__metadata__"': "the header begins: free texts",
        f'"{first}"': f"the first weight is `{first}`",
        '"dtype"': "its numbers have 16 bits",
        '"shape"': "there are 64 of them, along one axis",
        '"data_offsets"': "they take the bytes 0 to 128 behind the header",
    }
    places = [header.index(piece, header.index(f'"{first}"') if k else 0) for k, piece in enumerate(pieces)]
    places.append(header.index("}", places[-1]) + 2)
    rows = [("0", f"`{data[:8].hex(' ')}`", f"the length of the header, the lowest byte first: {end - 8:,}")]
    for k, said in enumerate(pieces.values()):
        rows.append((f"{8 + places[k]}", f"`{header[places[k] : places[k + 1]]}`", said))
    rows.append((f"{8 + places[-1]}", "…", "the other weights"))
    value = np.frombuffer(data[end : end + 2], "<f2")[0]
    rows.append((f"{end:,}", f"`{data[end : end + 2].hex(' ')}`", f"the first number of `{first}`: {value:.7g}"))
    rows.append((f"{end + 2:,}", f"`{data[end + 2 : end + 6].hex(' ')}` …", "the next ones"))
    write_table(folder / "checkpoint_files-bytes.md", ("at byte", "there is", "which says"), rows)


# Types ----------------------------------------------------------------------------------------------------------------

FORMATS = {"float64": (11, 53), "float32": (8, 24), "bfloat16": (8, 8), "float16": (5, 11)}  # bits of e, and p


def the_types(folder: Path) -> None:
    """Bits and range of the floating-point types, from their exponent and precision."""
    rows = []
    for kind, (exponent, p) in FORMATS.items():
        b = 2 ** (exponent - 1) - 1
        largest = (2.0 - 2.0 ** (1 - p)) * 2.0**b
        bits = f"1 + {exponent} + {p - 1} = {exponent + p}"
        rows.append((kind, bits, f"{p}", f"{b}", f"{largest:.2g}", f"{2.0 ** (1 - b):.1g}", f"{2.0**-p:.1g}"))
    head = ("type", "bits of s, e, m", "p", "b", "largest", "smallest normal", "relative error of rounding, at most")
    write_table(folder / "checkpoint_files-types.md", head, rows)


def whole_numbers(values: np.ndarray, bits: int) -> np.ndarray:
    """A weight rounded to whole numbers of so many bits times one scale; biases and gains stay as they are."""
    if values.ndim < 2:
        return values
    largest = 2 ** (bits - 1) - 1
    scale = np.abs(values).max() / largest
    return np.round(values / scale) * scale


def copied(model: Path, work: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A copy of the folder with every weight changed, in float32."""
    shutil.copytree(model, work, ignore=shutil.ignore_patterns("*.safetensors", "*.py", "*.md"))
    for path in sorted(model.rglob("*.safetensors")):
        source = open_source(path)
        write_safetensors(work / path.relative_to(model), {n: change(source.read(n)) for n in source.names})
    return work


def levels(model: tinyldm.LatentDiffusion) -> np.ndarray:  # -> (N, H, W, 3)
    """The pictures that are compared."""
    made = model.text_to_image(list(PROMPTS), steps=20, guidance_scale=4.0, seed=0)
    return np.stack([np.asarray(picture, float) for picture in made])


def stored(folder: Path, model: Path, work: Path) -> None:
    """What pictures lose by the type that weights are stored in."""
    kinds: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
        "float32": (4, lambda x: x),
        "float16, as it is": (2, lambda x: x.astype(np.float16).astype(np.float32)),
        "bfloat16": (2, rounded),
        "8 bits": (1, lambda x: whole_numbers(x, 8)),
        "4 bits": (0.5, lambda x: whole_numbers(x, 4)),
    }
    source = open_source(model / UNET)
    exact = levels(tinyldm.load())
    count, rows, shown = sum(int(np.prod(source.shape(n))) for n in source.names), [], []
    for kind, (width, change) in kinds.items():
        before = np.concatenate([source.read(n).ravel() for n in source.names])
        after = np.concatenate([change(source.read(n)).ravel() for n in source.names])
        error = np.sqrt(np.square(after - before).mean() / np.square(before).mean())
        found = levels(tinyldm.load(copied(model, work / f"stored-{len(rows)}", change)))
        far = np.abs(found - exact)
        size = f"{count * width / 1e6:.1f}"
        rows.append((kind, size, f"{error:.1e}" if error else "0", f"{np.sqrt(np.square(far).mean()):.2f}"))
        shown.append(found / 255)
    head = ("stored as", "the UNet, MB", "error of its weights, RMS", "the pictures, levels of 255, RMS")
    write_table(folder / "checkpoint_files-storage.md", head, rows)
    sheet(
        folder / "checkpoint_files-storage.png",
        [("", [pictures[k] for pictures in shown]) for k in range(len(PROMPTS))],
        list(kinds),
        1.25,
    )


# Names ----------------------------------------------------------------------------------------------------------------

NAMED = (
    ("unet", "conv_in.weight", ""),
    ("unet", "time_embedding.linear_1.weight", ""),
    ("unet", "down_blocks.0.resnets.0.conv1.weight", "one count through all levels"),
    ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q.weight", "the same inside"),
    ("unet", "mid_block.resnets.1.conv2.weight", ""),
    ("unet", "up_blocks.0.upsamplers.0.conv.weight", "part of the block before it"),
    ("vae", "decoder.up_blocks.0.resnets.0.conv1.weight", "levels counted from the other end"),
    ("vae", "decoder.mid_block.attentions.0.to_q.weight", "a 1 × 1 convolution"),
    ("text_encoder", "encoder.layers.0.mlp.fc1.weight", "a longer path in front"),
)


def the_names(folder: Path, model: Path, work: Path) -> None:
    """Some weights under their names in both layouts."""
    tinyldm.convert(model, work / "single.safetensors")
    found = open_checkpoint(work / "single.safetensors")
    rows = []
    for part, here, said in NAMED:
        source = found.components[part].source
        there = source.original_name(here)
        shapes = f"{source.shape(here)}"
        if (other := found.file.shape(there)) != source.shape(here):
            shapes += f", there {other}"
        rows.append((f"`{part}`: `{here}`", f"`{there}`", shapes, said))
    head = ("in the folder", "in the single file", "shape", "what differs beside the name")
    write_table(folder / "checkpoint_files-names.md", head, rows)


# Damage ---------------------------------------------------------------------------------------------------------------


def with_header(data: bytes, change: Callable[[dict], object]) -> bytes:
    """A file whose header was changed, its bytes kept."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    change(header)
    said = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(said)) + said + data[end:]


def damages(file: Path) -> Iterator[tuple[str, bytes | Tensors]]:
    """What was done to the file, and the file or its tensors after it."""
    data, source = file.read_bytes(), open_source(file)
    whole: Tensors = {n: source.read(n, None) for n in source.names}
    first, second = "conv_in.bias", "conv_in.weight"

    def moved(by: int) -> Callable[[dict], object]:
        def change(header: dict) -> None:
            begin, end = header[second]["data_offsets"]
            header[second]["data_offsets"] = [begin + by, end + by]

        return change

    yield "the end is cut off", data[:-1000]
    yield "a web page in its place", b"<!DOCTYPE html><html><body>Please log in.</body></html>"
    yield "one weight moved 8 bytes to the front, over another", with_header(data, moved(-8))
    yield "the same, to the back", with_header(data, moved(8))
    yield "its type changed to `F32`", with_header(data, lambda h: h[first].update(dtype="F32"))
    yield "a weight left out", {n: x for n, x in whole.items() if n != second}
    yield "a weight more", whole | {"conv_in.gain": whole[first]}
    linear = "time_embedding.linear_1.weight"
    yield "a matrix transposed", whole | {linear: whole[linear].T}
    one = "mid_block.resnets.0.conv1.weight"
    spoilt = whole[one].copy()
    spoilt[0, 0, 0, 0] = np.nan
    yield "one number NaN", whole | {one: spoilt}
    flipped = whole[one].copy()
    flipped.view(np.uint16)[0, 0, 0, 0] ^= 1 << 13
    yield "one bit of one number flipped", whole | {one: flipped}
    other = "mid_block.resnets.1.conv1.weight"
    yield "two weights of one shape exchanged", whole | {one: whole[other], other: whole[one]}


def damaged(folder: Path, model: Path, work: Path) -> None:
    """Each damage, and what the package says when the folder is loaded and its UNet called."""
    z = np.random.default_rng(0).standard_normal((1, 4, 16, 16)).astype(np.float32)
    context = np.random.default_rng(1).standard_normal((1, 16, 128)).astype(np.float32)
    exact = tinyldm.load(backend="reference").unet(z, 500, context)
    shutil.copytree(model, work / "damaged", ignore=shutil.ignore_patterns("*.py", "*.md"))
    file, rows = work / "damaged" / UNET, []
    for said, content in damages(model / UNET):
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            write_safetensors(file, content)
        when = "opened"
        try:
            found = tinyldm.load(work / "damaged", backend="reference")
            when = "first used"
            off = np.sqrt(np.square(found.unet(z, 500, context) - exact).mean() / np.square(exact).mean())
            rows.append((said, "never", f"nothing; the prediction is off by {100 * off:.2g} %"))
        except tinyldm.CheckpointError as error:
            rows.append((said, when, f"`{str(error).replace(str(file), '…')}`"))
    write_table(folder / "checkpoint_files-damage.md", ("damage", "noticed when", "what is said"), rows)


# Attacks --------------------------------------------------------------------------------------------------------------

MARK = "mark-of-the-attack"
COMMAND = f"echo > {MARK}"
VICTIM = """
import pickle, sys, zipfile
found = pickle.loads(zipfile.ZipFile(sys.argv[1]).read("model/data.pkl"))
len(str(found))
"""


def attacks() -> Iterator[tuple[str, bytes, bool]]:
    """What is in the file, the file, and whether Python's machine alone can run it (or PyTorch would have to)."""
    yield "`os.system`", archive(call("os.system", text(COMMAND))), True
    code = f"open({MARK!r}, 'w').close()"
    yield "`eval` of a text", archive(call("builtins.eval", text(code))), True
    named = text("os") + text("system") + b"\x93" + sequence(text(COMMAND)) + b"R"
    yield "a name put together on the stack (`STACK_GLOBAL`)", archive(named, protocol=b"\x80\x04"), True
    leads = text("collections") + text("_sys.exit") + b"\x93" + sequence(number(42)) + b"R"
    yield "a name that leads through a harmless module", archive(leads, protocol=b"\x80\x04"), True
    old = b"(" + text(COMMAND) + b"ios\nsystem\n"
    yield "an old instruction that imports and calls at once (`INST`)", archive(old), True
    deep = b"}" + b")" + b"\x85" * 300_000 + b"Ns"
    yield "a key of 300,000 tuples, one in the other", archive(deep), True
    copies = (b"c_codecs\nencode\n(h\1" + text("latin1") + b"tR") * 2000
    yield "2000 copies of one long text", archive(b"(" + text("x" * 1_000_000) + b"q\1" + copies + b"t", {}), True
    doubled = b"".join(b"](h%ch%ceq%c" % (k, k, k + 1) for k in range(1, 41))
    yield "a list of two lists of two lists …, 40 deep", archive(b"(]q\1" + doubled + b"t"), True
    bomb = b"(" + (text("x" * 1_000_000) + b"0") * 1000 + b"t"
    yield "a gigabyte packed into a megabyte", archive(bomb, compression=zipfile.ZIP_DEFLATED), True
    yield "a tensor that ends behind its numbers", archive(mapping(weight=tensor((2, 300), (300, 1)))), False
    repeated = tensor((10**6, 10**6), (0, 0))
    yield "a tensor of 10¹² numbers, all of them the same one", archive(mapping(weight=repeated)), False


def limited() -> None:
    """Little memory and little time, in the process that is about to begin."""
    resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))
    resource.setrlimit(resource.RLIMIT_CPU, (4, 4))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def suffered(file: Path) -> str:
    """What Python's own machine does with a file, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, file],
        cwd=file.parent,
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=False,
    )
    mark = file.parent / MARK
    if mark.exists():
        mark.unlink()
        return "runs it"
    if done.returncode == 42:
        return "ends the program"
    if done.returncode < 0:
        return "crashes" if done.returncode == -11 else "takes all time"
    if "MemoryError" in done.stderr:
        return "takes all memory"
    raise AssertionError(f"{file}: {done.returncode}, {done.stderr}")


def attacked(folder: Path, work: Path) -> None:
    """Each attack: what Python's machine does, and what the package says."""
    rows = []
    for k, (said, content, plain) in enumerate(attacks()):
        file = work / f"attack-{k}.pt"
        file.write_bytes(content)
        try:
            open_source(file)
        except tinyldm.CheckpointError as error:
            message = str(error).replace(f"{file}: ", "").replace("'model/data.pkl': ", "")
        rows.append((said, suffered(file) if plain else "leaves it to PyTorch", f"`{message}`"))
    write_table(folder / "checkpoint_files-attacks.md", ("in the file", "Python's machine", "the package says"), rows)


# LoRA -----------------------------------------------------------------------------------------------------------------

STRENGTHS = (-1.0, 0.0, 0.5, 1.0, 1.5)


def styled(folder: Path, model: Path) -> dict[str, str]:
    """Pictures with the LoRA at several strengths."""
    path = embedded("emoji-lines") / "pytorch_lora_weights.safetensors"
    changed = tinyldm.load(loras=["emoji-lines"])
    shown = []
    for strength in STRENGTHS:
        changed.scale_loras(strength)
        shown.append(levels(changed) / 255)
    rows = [("", [pictures[k] for pictures in shown]) for k in range(len(PROMPTS))]
    sheet(folder / "checkpoint_files-lora.png", rows, [f"{strength:g}" for strength in STRENGTHS], 1.25)
    rank = open_source(path).shape("unet.mid_block.resnets.0.conv1.lora_A.weight")[0]
    share = path.stat().st_size / (model / UNET).stat().st_size
    return {"lora_share": f"{100 * share:.1f}", "rank": str(rank)}


def make(folder: Path) -> None:
    """All of these."""
    model = embedded()
    with tempfile.TemporaryDirectory() as name_of_work:
        work = Path(name_of_work)
        numbers = the_folder(folder, model)
        the_bytes(folder, model / UNET)
        the_types(folder)
        the_names(folder, model, work)
        stored(folder, model, work)
        damaged(folder, model, work)
        attacked(folder, work)
        numbers |= styled(folder, model)
    write_numbers(folder / "checkpoint_files.json", numbers)
