"""The random streams that seeds mean: `torch_randn((1, 4, 64, 64), seed=0)` is what `torch.randn` gives on a CPU."""

from tinyldm.diffusion.philox import CudaGenerator
from tinyldm.diffusion.random import PictureStreams, TorchGenerator, torch_randn
from tinyldm.diffusion.streams import NumpyGenerator, picture_streams

__all__ = ["CudaGenerator", "NumpyGenerator", "PictureStreams", "TorchGenerator", "picture_streams", "torch_randn"]
