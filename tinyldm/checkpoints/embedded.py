"""Checkpoints by name that need no download: the package's own, and its sisters in a package of their own.

The sisters are first stages of other kinds, adapters and comparisons, trained on the same pictures. `pip install
./weights` installs them as `tinyldm_weights`; in the source tree they are found without.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tinyldm.errors import CheckpointError

OWN = "emoji"
SISTERS = (
    *("emoji-asymmetric", "emoji-edges", "emoji-flow", "emoji-lcm", "emoji-lines", "emoji-pixels", "emoji-tiny"),
    *("emoji-vq", "emoji-word"),
)
SISTER_PACKAGE = "tinyldm_weights"


def is_embedded_name(path: str | Path) -> bool:
    """Whether something that is no path here is the name of the package's checkpoint or of one of its sisters."""
    return str(path) in (OWN, *SISTERS) and not Path(path).exists()


def embedded(name: str = OWN) -> Path:
    """The folder of the package's checkpoint or of a sister: in the source tree, or in the installed packages.

    Raises `CheckpointError` for a name that is not known, and for a sister whose package is not installed.
    """
    if name not in (OWN, *SISTERS):
        raise CheckpointError(f"{name}: not the name of an embedded checkpoint; these are: {OWN}, {', '.join(SISTERS)}")
    package = Path(__file__).resolve().parents[1]
    places = [package / "weights", package.parent / "weights"]
    if name != OWN and (found := find_spec(SISTER_PACKAGE)) is not None:
        places += map(Path, found.submodule_search_locations or ())
    for place in places:
        if (place / name / "README.md").is_file():
            return place / name
    if name == OWN:
        raise CheckpointError(f"{package}: the embedded checkpoint is not there; install the package again")
    raise CheckpointError(
        f"{name}: this checkpoint is in a package of its own; in the source tree: pip install ./weights"
    )
