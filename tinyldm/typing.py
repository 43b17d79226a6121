"""The type of arrays in signatures: what is in them, the docstring's shapes say."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]  # of any float type; sums and products of such arrays are such arrays to mypy, too
Integers = NDArray[np.integer[Any]]
