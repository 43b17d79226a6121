"""How much memory a run takes, how much there is, and sizes in words."""

from __future__ import annotations

import contextlib
import math
import os
import re
import warnings
from pathlib import Path
from typing import Any

from tinyldm.errors import InputError

INTERPRETER_BYTES = 180 << 20  # Python, NumPy, Numba and their code
LIBRARIES_BYTES = 290 << 20  # address space that they take beyond that memory: code, the stacks and heaps of threads
LEAST_ADDRESS_SPACE = {"numba": INTERPRETER_BYTES + LIBRARIES_BYTES, "reference": 290 << 20}
LITTLE_ADDRESS_SPACE = 4 << 30
SCORES = 4  # matrices of them alive at once: as they are, masked, their softmax, its sums
FEATURE_MAPS = 3  # of the largest size, alive at once: input, output, residual
BANDS = 5  # of a tiled decoder's widest level, alive at once


def expected_bytes(model: Any, h: int, w: int, low_memory: bool | None = None, denoises: bool = True) -> int:
    """About how much memory a single run takes, for latents of `h` × `w`; its pictures are walked in groups.

    The larger of two: the weights of the UNet and its ControlNets, in the runtime's dtype or as bfloat16, and what the
    UNet holds for its guided batch (every skip, and a few maps of its largest size), or the autoencoder's and what the
    decoder holds for one picture, which is all where nothing is denoised. With low memory, of the weights only the
    largest one at a time, as it was read and as it is arranged for the kernel. The reference holds attention's scores
    on top.
    `low_memory` is the model's own setting unless given.
    """
    from tinyldm.pipelines.walk import GROUP_POSITIONS  # here, so that limits are looked at before NumPy is imported

    low_memory = model.runtime.low_memory if low_memory is None else low_memory
    sizes = {name: [math.prod(s) for s in network.parameters.values()] for name, network in model.networks.items()}
    denoising = [size for name, own in sizes.items() if name.startswith(("unet", "controlnet")) for size in own]
    widths = model.unet.config.block_out_channels
    skips = sum(3 * c / 4**i for i, c in enumerate(widths))
    count = max(1, GROUP_POSITIONS // max(1, h * w))
    unet = 2 * count * h * w * (skips + FEATURE_MAPS * 2 * widths[0])
    decoder = decoder_numbers(model.vae, h, w)
    held = (lambda weights: 2 * max(weights)) if low_memory else sum
    number = model.runtime.dtype.itemsize
    weight = 2 if model.runtime.backend == "numba" and model.runtime.precision == "bf16" else number
    denoised = weight * held(denoising) + number * unet if denoises else 0
    needed = max(denoised, weight * held(sizes["vae"]) + number * decoder)
    if model.runtime.backend == "reference":  # has the scores of a head as a whole; both networks attend to all places
        needed += number * SCORES * (h * w) ** 2
    return int(INTERPRETER_BYTES + needed)


def decoder_numbers(vae: Any, h: int, w: int) -> int:
    """About how many numbers the decoder holds for one picture.

    A few maps of the largest size; where it computes in tiles, what a level comes in or goes out with, and a few bands.
    """
    widths, height, width = vae.config.decoder_widths, h * vae.config.factor, w * vae.config.factor
    widest = widths[min(1, len(widths) - 1)]
    if vae.tile is None:
        return int(height * width * FEATURE_MAPS * widest)
    halts = hasattr(vae.config, "norm_num_groups")  # before a norm, a picture is there as a whole
    inputs = (*widths[1:], widths[-1])
    maps = max(max(c_in, 2 * c) / 4**i for i, (c, c_in) in enumerate(zip(widths, inputs, strict=True))) if halts else 0
    return int(width * (height * maps + BANDS * min(vae.tile, height) * widest))


def machine_bytes() -> int | None:
    """The memory of this machine; None where the system does not say (Windows)."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def available_bytes() -> int | None:
    """The memory that this process can still have: what the machine has free, a container or `ulimit -v` leaves it.

    None where nothing is known.
    """
    known = [free_bytes() or machine_bytes(), container_bytes(), address_bytes()]
    return min((size for size in known if size is not None), default=None)


def free_bytes() -> int | None:
    """What programs can have before others are stopped, on Linux; None elsewhere."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        kilobytes = {name: int(number) for name, number, *_ in lines}
        return 1024 * (kilobytes["MemAvailable:"] + kilobytes["SwapFree:"])
    return None


def container_bytes() -> int | None:
    """What a container (a control group of Linux, of either version) leaves; None without a limit."""
    for folder, limit, used in (
        (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            statistics = (folder / "memory.stat").read_text()
            cached = re.search(r"^(?:total_)?inactive_file (\d+)", statistics, re.MULTILINE)
            taken = int((folder / used).read_text()) - int(cached[1] if cached else 0)
            return int((folder / limit).read_text()) - taken  # the word `max` is no number
    return None


def address_bytes() -> int | None:
    """What a limit on the address space (`ulimit -v`) leaves for memory, libraries taken off; None without one."""
    limit = address_limit()
    return None if limit is None else max(0, limit - LIBRARIES_BYTES)


def address_limit() -> int | None:
    """The limit on the address space of this process; None without one."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def check_address_space(backend: str) -> None:
    """Raise `InputError` where a limit on the address space leaves too little to import the libraries that compute.

    They answer that with tracebacks, with an abort, or by asking again for ever (OpenBLAS, which takes memory for each
    of its threads: under a limit it gets one).
    """
    limit, least = address_limit(), LEAST_ADDRESS_SPACE.get(backend, 0)
    if limit is not None and limit < LITTLE_ADDRESS_SPACE:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if limit is not None and limit < least:
        other = "" if backend == "reference" else "; --backend reference does with less"
        raise InputError(
            f"the limit on memory (ulimit -v) is {human_bytes(limit)}, and the {backend} backend takes "
            f"{human_bytes(least)} before it computes anything{other}"
        )


def check_memory(model: Any, h: int, w: int, what: str, denoises: bool = True) -> None:
    """Raise `InputError` where `what` takes more memory than is available, with what would do."""
    needed, available = expected_bytes(model, h, w, denoises=denoises), available_bytes()
    if available is None or needed <= available:
        return
    lower = expected_bytes(model, h, w, low_memory=True, denoises=denoises)
    way = f"with --low-memory it takes about {human_bytes(lower)}" if lower <= available else "take a smaller size"
    raise InputError(
        f"{what}: about {human_bytes(needed)} of memory, and {human_bytes(available)} are available; {way}, or try it "
        "all the same with --force"
    )


def fitting(model: Any, h: int, w: int, what: str, denoises: bool = True) -> Any:
    """`model`, its autoencoder in tiles where that alone makes `what` fit the memory available, which a warning says.

    Raises `InputError` as `check_memory` does where that does not suffice.
    """
    available = available_bytes()
    if available is not None and model.vae.tile is None and expected_bytes(model, h, w, denoises=denoises) > available:
        with contextlib.suppress(InputError):  # a first stage that has no tiles
            smaller = model.tiled()
            if expected_bytes(smaller, h, w, denoises=denoises) <= available:
                warnings.warn(f"{what}: the autoencoder computes in tiles, since memory is short", stacklevel=2)
                return smaller
    check_memory(model, h, w, what, denoises)
    return model


def human_bytes(size: float) -> str:
    """A size in the unit that fits: `18.1 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
