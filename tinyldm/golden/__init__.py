"""Golden tensors: seeded weights, recorded computations, and their comparison.

`record` and `trace` write down every tensor that a model computes, `diff` finds the first one in which another
computation differs, `bisect` judges every module alone. Read `store` for the file, `compare` for the judgement.
"""

from tinyldm.golden.store import Golden, GoldenWriter
from tinyldm.golden.tracing import GoldenTrace, trace

__all__ = ["Golden", "GoldenTrace", "GoldenWriter", "trace"]
