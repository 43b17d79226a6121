"""How a picture was made, in the words of AUTOMATIC1111's pages (`parameters`): what its clients read."""

from __future__ import annotations

from tinyldm.pipelines.request import Request
from tinyldm.version import __version__


def infotext(wanted: Request, k: int, model: str) -> str:
    """The text of picture `k` of a resolved request.

    The prompt, the negative prompt where there is one, and a line of settings with their names there.
    """
    settings: dict[str, object] = {
        "Steps": wanted.steps,
        "Sampler": wanted.sampler,
        "CFG scale": wanted.guidance_scale,
        "Seed": wanted.seeds[k],
        "Size": f"{wanted.width}x{wanted.height}",
        "Model": model,
    }
    settings |= {} if wanted.strength is None else {"Denoising strength": wanted.strength}
    settings["Version"] = f"tinyldm {__version__}"
    negative = f"\nNegative prompt: {wanted.negative_prompts[k]}" if wanted.negative_prompts[k] else ""
    line = ", ".join(f"{name}: {value}" for name, value in settings.items())
    return f"{wanted.prompts[k] or ''}{negative}\n{line}".strip()
