"""Published files whose SHA-256 says what their tensors do not: whether the UNet predicts epsilon or v.

The files of Stable Diffusion 2 for 512 pixels (2-base, 2.1-base) and for 768 pixels have the same names and shapes.
The digests are those that the hub publishes for the files of the repositories `stabilityai/stable-diffusion-2…`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

PREDICTION_TYPES = {
    # 2-base: 512-base-ema, .ckpt and .safetensors
    "d635794c1fedfdfa261e065370bea59c651fc9bfa65dc6d67ad29e11869a1824": "epsilon",
    "ab800444cdd1e6ade2236874dd28db9608d1d740aaf6087c7273884140612993": "epsilon",
    # 2.1-base: v2-1_512-ema-pruned, .ckpt and .safetensors, then v2-1_512-nonema-pruned
    "88ecb782561455673c4b78d05093494b9c539fc6bfc08f3a9a4a0dd7b0b10f36": "epsilon",
    "df955bdf6b682338ea9b55dfc0d8f3475aadf4836e204893d28b82355e0956d2": "epsilon",
    "34dccb9e60d83a4ef963f51e9ff63548323a70024f8679095956d7c403b3ef4a": "epsilon",
    "fc4f9fe7528b2ee3de21971fb805bbf74d680bf1ab5b5f9c08379b0397b82a9d": "epsilon",
    # 2: 768-v-ema, .ckpt and .safetensors
    "bfcaf0755797b0c30eb00a3787e8b423eb1f5decd8de76c4d824ac2dd27e139f": "v_prediction",
    "703d49a1d847b218c5c230fce80ba1f73f848bc3afc06e48e727ee47fdf06b1f": "v_prediction",
    # 2.1: v2-1_768-ema-pruned, .ckpt and .safetensors, then v2-1_768-nonema-pruned
    "ad2a33c361c1f593c4a1fb32ea81afce2b5bb7d1983c6b94793a26a3b54b08a0": "v_prediction",
    "dcd690123cfc64383981a31d955694f6acf2072a80537fdb612c8e58ec87a8ac": "v_prediction",
    "4711ff4dd270067f71d5ea0725e83e4dc7c41f586a588531ee1c3bd549e9119d": "v_prediction",
    "ff144a49841cf383adbc68841272ce639e1032b0a1f0f6586347feb953c244f4": "v_prediction",
}


def known_prediction_type(path: Path) -> str | None:
    """What the UNet of a published file predicts, by the file's digest; None for a file that is not in the table."""
    with path.open("rb") as file:
        return PREDICTION_TYPES.get(hashlib.file_digest(file, "sha256").hexdigest())
