"""The configuration file of the original layout, which lies beside a checkpoint under its name: `NAME.yaml`."""

from __future__ import annotations

import re
from pathlib import Path


def parameterization(path: str | Path) -> str | None:
    """The prediction type that an original configuration file beside a checkpoint states, or None.

    Such a file has the checkpoint's name and the suffix `.yaml`; of it only the line `parameterization: …` is read.
    """
    file = Path(path).with_suffix(".yaml")
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^\s*parameterization:\s*[\"']?(\w+)", text, re.MULTILINE)
    stated = found.group(1) if found else "eps"
    return {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}.get(stated)
