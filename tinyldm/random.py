"""The random stream that seeds mean: `torch_randn((1, 4, 64, 64), seed=0)` is what `torch.randn` gives on a CPU."""

from tinyldm.diffusion.random import PictureStreams, TorchGenerator, picture_streams, torch_randn

__all__ = ["PictureStreams", "TorchGenerator", "picture_streams", "torch_randn"]
