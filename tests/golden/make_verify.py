"""Fill in the case of the embedded checkpoint in `tinyldm/verify_cases.json`, by diffusers' own pipeline.

pip install ".[golden]" && python tests/golden/make_verify.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tinyldm" / "verify_cases.json"


def main() -> None:
    case = next(c for c in json.loads(CASES.read_text())["cases"] if c["name"] == "emoji")
    pipe = StableDiffusionPipeline.from_pretrained(ROOT / "weights" / "emoji", torch_dtype=torch.float32)
    arguments = case["arguments"]
    latents = np.random.RandomState(arguments["seed"]).standard_normal((1, 4, 16, 16))
    images = pipe(
        case["prompt"],
        latents=torch.from_numpy(latents).float(),
        num_inference_steps=arguments["steps"],
        guidance_scale=arguments["guidance_scale"],
        output_type="np",
    ).images
    row, column = case["corner"]
    values = ", ".join(f"{value:.5f}" for value in images[0, row : row + 3, column : column + 3, -1].ravel())
    text = CASES.read_text()
    start = text.index('"name": "emoji"')
    CASES.write_text(text[:start] + re.sub(r'"slice": \[[^\]]*\]', f'"slice": [{values}]', text[start:]))
    print(values)


if __name__ == "__main__":
    main()
