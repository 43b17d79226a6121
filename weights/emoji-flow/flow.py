"""A normalizing flow (RealNVP, Glow) of 64x64 pictures: squeeze, actnorm, invertible 1x1 convolution, coupling."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def squeeze(x):
    return F.pixel_unshuffle(x, 2)


def unsqueeze(x):
    return F.pixel_shuffle(x, 2)


class Step(nn.Module):
    """Actnorm, 1x1 convolution W = P L (U + diag(sign exp(log_s))), affine coupling with log scale 2 tanh(raw / 2)."""

    def __init__(self, channels, hidden):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_gain = nn.Parameter(torch.zeros(channels))
        w = torch.linalg.qr(torch.randn(channels, channels))[0]
        p, low, up = torch.linalg.lu(w)
        s = up.diagonal()
        self.register_buffer("permutation", p.contiguous())
        self.register_buffer("sign", s.sign().clone())
        self.lower = nn.Parameter(low.tril(-1).clone())
        self.upper = nn.Parameter(up.triu(1).clone())
        self.log_s = nn.Parameter(s.abs().log().clone())
        self.register_buffer("eye", torch.eye(channels), persistent=False)
        self.register_buffer("below", torch.ones(channels, channels).tril(-1), persistent=False)
        half = channels // 2
        self.net = nn.Sequential(
            nn.Conv2d(half, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, 2 * (channels - half), 3, padding=1),
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def matrix(self):
        low = self.lower * self.below + self.eye
        up = self.upper * self.below.T + self.eye * (self.sign * self.log_s.exp())
        return self.permutation @ low @ up

    def coupling(self, a):
        raw, shift = self.net(a).chunk(2, 1)
        return 2 * torch.tanh(raw / 2), shift

    def initialize(self, x):
        std, mean = torch.std_mean(x, dim=(0, 2, 3))
        self.bias.copy_(-mean)
        self.log_gain.copy_(-(std + 1e-3).log())

    def forward(self, x):  # -> y, log determinant of each picture
        pixels = x.shape[2] * x.shape[3]
        x = (x + self.bias[:, None, None]) * self.log_gain.exp()[:, None, None]
        x = (self.matrix() @ x.flatten(2)).view_as(x)
        a, b = x.tensor_split(2, 1)
        log_scale, shift = self.coupling(a)
        b = b * log_scale.exp() + shift
        return torch.cat([a, b], 1), (self.log_gain.sum() + self.log_s.sum()) * pixels + log_scale.sum((1, 2, 3))

    def inverse(self, y):
        a, b = y.tensor_split(2, 1)
        log_scale, shift = self.coupling(a)
        x = torch.cat([a, (b - shift) * (-log_scale).exp()], 1)
        inverse = torch.linalg.inv(self.matrix().double()).to(x.dtype)
        x = (inverse @ x.flatten(2)).view_as(x)
        return x * (-self.log_gain).exp()[:, None, None] - self.bias[:, None, None]


def gaussian(x, mean, log_std):
    return (-0.5 * (math.log(2 * math.pi) + 2 * log_std + (x - mean).square() * (-2 * log_std).exp())).sum((1, 2, 3))


class Flow(nn.Module):
    """x in [-0.5, 0.5] -> a list of latents, finest first; what is split off has a Gaussian prior given the rest."""

    def __init__(self, levels=3, depth=8, hidden=96, side=64, channels=3):
        super().__init__()
        self.side, self.channels = side, channels
        self.levels, self.priors = nn.ModuleList(), nn.ModuleList()
        c = channels
        for level in range(levels):
            c *= 4
            self.levels.append(nn.ModuleList(Step(c, hidden) for _ in range(depth)))
            last = level == levels - 1
            prior = nn.Conv2d(c if last else c // 2, 2 * (c if last else c // 2), 3, padding=1)
            nn.init.zeros_(prior.weight)
            nn.init.zeros_(prior.bias)
            self.priors.append(prior)
            if not last:
                c //= 2

    def shapes(self, count):
        c, side, out = self.channels, self.side, []
        for level in range(len(self.levels)):
            c, side = 4 * c, side // 2
            last = level == len(self.levels) - 1
            out.append((count, c if last else c // 2, side, side))
            c //= 2
        return out

    def prior(self, level, h):
        mean, log_std = self.priors[level](h).chunk(2, 1)
        return mean, 3 * torch.tanh(log_std / 3)

    def initialize(self, x):
        self.forward(x, initialize=True)

    def forward(self, x, initialize=False):
        latents, log_p = [], x.new_zeros(len(x))
        h = x
        for level, steps in enumerate(self.levels):
            h = squeeze(h)
            for step in steps:
                if initialize:
                    step.initialize(h)
                h, log_det = step(h)
                log_p = log_p + log_det
            if level < len(self.levels) - 1:
                z, h = h.chunk(2, 1)
                mean, log_std = self.prior(level, h)
            else:
                z = h
                mean, log_std = self.prior(level, torch.zeros_like(h))
            latents.append(z)
            log_p = log_p + gaussian(z, mean, log_std)
        return latents, log_p

    def inverse(self, latents, given_noise=False):
        """Latents, or with `given_noise` standard normal noise in their shapes, to pictures."""
        h = None
        for level in reversed(range(len(self.levels))):
            last = level == len(self.levels) - 1
            z = latents[level]
            if given_noise:
                mean, log_std = self.prior(level, torch.zeros_like(z) if last else h)
                z = mean + log_std.exp() * z
            h = z if last else torch.cat([z, h], 1)
            for step in reversed(self.levels[level]):
                h = step.inverse(h)
            h = unsqueeze(h)
        return h
