"""The values to compare of a tensor that two files hold, whatever each of them kept of it."""

from __future__ import annotations

import numpy as np

from tinyldm.golden.metrics import measure
from tinyldm.golden.store import Golden, Statistics, sample_positions, statistics


class FilePair:
    """A golden file and a candidate's, tensor by tensor."""

    def __init__(self, golden: Golden, candidate: Golden) -> None:
        self.golden, self.candidate = golden, candidate
        self._errors: dict[tuple[str, str], float] = {}

    def whole(self, key: str) -> bool:
        """Whether both files hold all values of a tensor."""
        return self.golden.has_whole(key) and self.candidate.has_whole(key)

    def values(self, ours: str, theirs: str) -> tuple[np.ndarray, np.ndarray, bool]:
        """The golden's tensor and the candidate's: all values, those that were sampled, or the statistics.

        The third is whether they are the whole tensors.
        """
        g, c = self.golden, self.candidate
        if not (g.has_values(ours) and c.has_values(theirs)):
            a_known, b_known = known(g, ours), known(c, theirs)
            same = a_known.sha256 == b_known.sha256
            return five(a_known), five(a_known if same else b_known), False
        a, b = g[ours], c[theirs]
        if ours in g.sampled and theirs not in c.sampled:
            b = b.reshape(-1)[sample_positions(ours, b.size, a.size)]
        elif theirs in c.sampled and ours not in g.sampled:
            a = a.reshape(-1)[sample_positions(theirs, a.size, b.size)]
        elif a.shape != b.shape:  # both sampled: the shorter is the beginning of the longer
            n = min(a.size, b.size)
            a, b = a[:n], b[:n]
        return a, b, ours not in g.sampled and theirs not in c.sampled

    def inputs(self, key: str) -> list[tuple[str, str]]:
        """The recorded inputs of a module in both files; the candidate's by the golden's references where it has none.

        Inputs that are in one file only, or of other shapes, say nothing.
        """
        ours = self.golden.inputs.get(key, [])
        theirs = self.candidate.inputs.get(key) or ours
        pairs = zip(ours, theirs, strict=False)
        return [(a, b) for a, b in pairs if b in self.candidate and self.golden.shape(a) == self.candidate.shape(b)]

    def error(self, ours: str, theirs: str) -> float:
        """The relative RMSE of an input; infinite where one side has NaN or infinity and the other has not."""
        if (ours, theirs) not in self._errors:
            g, c, _ = self.values(ours, theirs)
            m = measure(g, c)
            self._errors[ours, theirs] = float("inf") if m.nonfinite_differ else m.rel_rmse
        return self._errors[ours, theirs]


def known(file: Golden, key: str) -> Statistics:
    """The statistics of a tensor, as the file states them or from its values."""
    return file.statistics[key] if key in file.statistics else statistics(file[key])


def five(s: Statistics) -> np.ndarray:
    """Statistics as five numbers to compare."""
    return np.array([s.min, s.max, s.mean, s.std, float(s.nonfinite)])
