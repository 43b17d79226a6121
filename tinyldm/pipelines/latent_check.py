"""Whether a latent is what the decoder was trained on: the contract between the two networks, as code.

Two numbers say how far a latent is from those of real pictures. Its *distance*: a latent is brought to a few features
(mean and deviation of each channel, correlations between channels, shares of four bands of frequency), and the
distance is Mahalanobis', divided by the root of their number, from the features of many pictures (Lee et al. 2018,
arXiv:1807.03888, for features of networks). Its *round trip*: decoded and encoded again it should come back, and how
far from itself it comes back says how far it is from all that the decoder can show. The *score* is the larger of the
two, each in parts of what is still usual: 1 is the limit.

Where the score is too high, the usual mistakes are undone one by one: a forgotten scaling factor, a turned sign,
channels in another order, a scale, a shift. The one after which the latent looks as it should is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np

from tinyldm.errors import CheckpointError, InputError
from tinyldm.models.first_stage import FirstStage
from tinyldm.pipelines.pictures import write_whole
from tinyldm.typing import Array

FILE = "latent_statistics.json"
BANDS = 4  # of frequency, each an eighth of a period a place of the latent wide
FEWEST = 16  # pictures that statistics are made of
MOST_CORRELATED = 8  # channels of which all correlations are features
SHRINKAGE = 0.1  # how much of the covariance's off-diagonal is not believed
MARGIN = 1.5  # of the limits above what 99 % of the pictures have
FLAT = 1e-3  # a deviation that is none
WIDEST = 2.0  # how far from 1 the deviation may be where no statistics say more
SIDE = 16  # of the middle of a latent that remedies are tried on
BETTER = 2.0  # how much better a remedy with a fitted number must be than one without


@dataclass(frozen=True)
class Summary:
    """What the features of one latent are made of: means `(C,)`, covariance `(C, C)`, power by band `(BANDS,)`.

    A band without a frequency (of a latent that is too small) is NaN.
    """

    mean: Array
    covariance: Array
    power: Array

    def features(self) -> Array:
        """Means, logarithms of deviations, correlations, logarithms of the bands' shares of the variance."""
        deviation = np.sqrt(np.maximum(np.diag(self.covariance), FLAT**2))
        pairs = list(combinations(range(len(self.mean)), 2)) if len(self.mean) <= MOST_CORRELATED else []
        correlations = [self.covariance[i, j] / (deviation[i] * deviation[j]) for i, j in pairs]
        shares = np.log(np.maximum(self.power, FLAT**2) / np.square(deviation).mean())
        features: Array = np.concatenate([self.mean, np.log(deviation), correlations, shares])
        return features


def summary(z: Array) -> Summary:  # (C, h, w) -> …
    """Means, covariance and spectrum of one latent."""
    z = np.asarray(z, np.float64)
    channels, height, width = z.shape
    mean = z.mean((1, 2))
    centred = z - mean[:, None, None]
    flat = centred.reshape(channels, -1)
    power = np.square(np.abs(np.fft.fft2(centred))).mean(0) / (height * width)  # white noise of variance v: v each
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    band = np.minimum((frequency * 2 * BANDS).astype(int), BANDS - 1)
    band[0, 0] = BANDS  # the mean, which is a feature of its own
    bands = [power[band == k].mean() if (band == k).any() else np.nan for k in range(BANDS)]
    return Summary(mean, flat @ flat.T / flat.shape[1], np.array(bands))


@dataclass(frozen=True)
class LatentStatistics:
    """What the latents of a checkpoint are usually like, over so many `pictures`.

    `mean` and `std` `(C,)` of all values by channel; mean `(K,)` and covariance `(K, K)` of the features; the distance
    and the round trip that are still usual.
    """

    pictures: int
    mean: Array
    std: Array
    features: Array
    covariance: Array
    distance: float
    round_trip: float

    @property
    def channels(self) -> int:
        """Of the latents."""
        return len(self.mean)

    def distance_of(self, found: Summary) -> float:
        """The distance of a latent from the usual: about 1 for those of real pictures."""
        difference = found.features() - self.features
        known = np.isfinite(difference)
        d = difference[known]
        return float(np.sqrt(d @ np.linalg.solve(self.covariance[np.ix_(known, known)], d) / len(d)))

    def scores(self, latents: Array, vae: FirstStage[Any]) -> Array:
        """The scores of latents `(N, C, h, w)`, by the middle of large ones: 1 is the limit."""
        distances = np.array([self.distance_of(summary(z)) for z in latents])
        scores: Array = np.maximum(distances / self.distance, round_trips(middle(latents), vae) / self.round_trip)
        return scores

    def write(self, path: Path) -> None:
        """Write them as JSON, whole or not at all."""
        digits = np.vectorize(lambda value: float(f"{value:.7g}"))  # seven, which are more than statistics have
        plain = {k: digits(v).tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(self).items()}
        text = json.dumps({"format": 1, **plain}) + "\n"
        write_whole(path, lambda file: file.write(text.encode()))


def round_trips(latents: Array, vae: FirstStage[Any]) -> Array:  # (N, C, h, w) -> (N,)
    """By how much latents change when they are decoded and encoded again: the root of the mean square."""
    errors = []
    for k in range(0, len(latents), 8):
        z = np.asarray(latents[k : k + 8], vae.runtime.dtype)
        pixels = np.clip(vae.decode(vae.unscale(z)), -1, 1)
        again = vae.scale(vae.encode(pixels)[0])
        errors.append(np.sqrt(np.square(again - z, dtype=np.float64).mean((1, 2, 3))))
    return np.concatenate(errors)


def middle(latents: Array) -> Array:
    """The middle of latents that are larger than `SIDE` places."""
    top, left = (max(0, (side - SIDE) // 2) for side in latents.shape[2:])
    return latents[:, :, top : top + SIDE, left : left + SIDE]


def fit(pictures: Iterable[Array], vae: FirstStage[Any]) -> LatentStatistics:
    """The statistics of the latents of pictures `(N, 3, H, W)` in [-1, 1]. Raises `InputError` for too few."""
    every, trips = [], []
    for pixels in pictures:
        latents = vae.scale(vae.encode(pixels)[0])
        every += [np.asarray(z, np.float64) for z in latents]
        trips.append(round_trips(middle(latents), vae))
    if len(every) < FEWEST:
        raise InputError(f"statistics of latents need at least {FEWEST} pictures, not {len(every)}")
    features = np.stack([summary(z).features() for z in every])
    if not np.isfinite(features).all():
        raise InputError("statistics of latents need larger pictures: their latents must be 8 by 8 at least")
    covariance = np.cov(features.T)
    spread = np.diag(np.diag(covariance))
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * spread + 1e-4 * np.eye(len(spread))
    values = np.concatenate([z.reshape(len(z), -1) for z in every], axis=1)
    d = features - features.mean(0)
    distances = np.sqrt((d * np.linalg.solve(covariance, d.T).T).mean(1))
    distance, trip = (MARGIN * float(np.quantile(found, 0.99)) for found in (distances, np.concatenate(trips)))
    return LatentStatistics(
        len(every), values.mean(1), values.std(1), features.mean(0), covariance, distance, max(trip, FLAT)
    )


def statistics_path(checkpoint: Path) -> Path:
    """Where the statistics of a checkpoint lie: in its folder, or beside its file."""
    return checkpoint / FILE if checkpoint.is_dir() else checkpoint.with_name(f"{checkpoint.name}.{FILE}")


def read_statistics(path: Path) -> LatentStatistics | None:
    """The statistics of a file, None where there is none. Raises `CheckpointError` for a file that is none of these."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("format") != 1:
            raise ValueError
        arrays = {k: np.array(fields.pop(k), np.float64) for k in ("mean", "std", "features", "covariance")}
        found = LatentStatistics(
            fields["pictures"], **arrays, distance=fields["distance"], round_trip=fields["round_trip"]
        )
        sizes = found.std.shape == found.mean.shape and found.covariance.shape == (len(found.features),) * 2
        count = len(Summary(found.mean, np.eye(found.channels), np.ones(BANDS)).features())
        if not (sizes and count == len(found.features) and all(np.isfinite(a).all() for a in arrays.values())):
            raise ValueError
        np.linalg.cholesky(found.covariance)
        if not (found.distance > 0 and found.round_trip > 0):
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise CheckpointError(
            f"{path}: not statistics of latents as `tinyldm check-latent --fit` writes them; write them anew"
        ) from None
    return found


# The check ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What is wrong with a latent: one word for it, what was seen, and what to do."""

    name: str
    seen: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.seen}; {self.remedy}"


@dataclass(frozen=True)
class CheckedLatent:
    """One latent: mean and standard deviation by channel `(C,)`, the bands' shares `(BANDS,)`, the faults.

    `score` is usual up to 1, and None where no statistics are stored.
    """

    mean: Array
    std: Array
    shares: Array
    score: float | None
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class LatentReport:
    """What a check has found: of the array as a whole (`faults` of its shape), and of each latent in it."""

    shape: tuple[int, ...]
    latents: tuple[CheckedLatent, ...]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults and not any(checked.faults for checked in self.latents)

    @property
    def names(self) -> tuple[str, ...]:
        """The faults by one word each, in the order in which they were found, each once."""
        every = [*self.faults, *(fault for checked in self.latents for fault in checked.faults)]
        return tuple(dict.fromkeys(fault.name for fault in every))

    def __str__(self) -> str:
        return "\n".join(described(self))


def described(report: LatentReport) -> Iterator[str]:
    """A report in lines."""
    yield f"shape     {'×'.join(map(str, report.shape))}"
    for k, checked in enumerate(report.latents):
        if len(report.latents) > 1:
            yield f"latent {k}"
        yield f"mean      {' '.join(f'{v:+.2f}' for v in checked.mean)}"
        yield f"deviation {' '.join(f'{v:.2f}' for v in checked.std)}"
        yield f"spectrum  {' '.join(f'{v:.3f}' for v in checked.shares)} of the variance, coarse to fine"
        if checked.score is not None:
            yield f"score     {checked.score:.2f}, usual up to 1"
        yield from (f"fault     {fault}" for fault in checked.faults)
    yield from (f"fault     {fault}" for fault in report.faults)
    yield from (f"note      {note}" for note in report.notes)
    yield "fits" if report.ok else "does not fit"


def check_latent(z: Array, vae: FirstStage[Any], statistics: LatentStatistics | None) -> LatentReport:
    """Check latents `(N, C, h, w)` as the diffusion hands them over (scaled), against a first stage and its statistics.

    Any array can be checked: what is wrong with it is in the report. Raises `CheckpointError` where the statistics are
    those of latents with other channels.
    """
    z = np.asarray(z)
    if statistics is not None and statistics.channels != vae.latent_channels:
        raise CheckpointError(
            f"{FILE}: statistics of latents with {statistics.channels} channels, where the first stage has "
            f"{vae.latent_channels}; write them anew with `tinyldm check-latent --fit`"
        )
    notes = []
    if statistics is None:
        notes.append(
            "this checkpoint has no statistics of latents: shape, finiteness and scale were checked, nothing else; "
            "`tinyldm check-latent --fit FOLDER` makes them from pictures"
        )
    if fault := wrong_shape(z, vae.latent_channels):
        return LatentReport(z.shape, (), (fault,), tuple(notes))
    return LatentReport(z.shape, tuple(checked(one, vae, statistics) for one in z), (), tuple(notes))


def wrong_shape(z: Array, channels: int) -> Fault | None:
    """What is wrong with the shape or the type, if anything."""
    wanted = f"wanted (N, {channels}, h, w)"
    if z.dtype.kind not in "fiu":
        return Fault("type", f"the values are {z.dtype}", "hand over real numbers")
    if z.ndim == 3 and z.shape[0] == channels and z.size:
        return Fault("shape", f"{z.shape} has no axis of pictures, {wanted}", "take z[None]")
    if z.ndim != 4 or not z.size:
        return Fault("shape", f"{z.shape}, {wanted}", "hand over one latent for each picture")
    if z.shape[1] == channels:
        return None
    if z.shape[3] == channels:
        return Fault("layout", f"{z.shape} has its channels last, {wanted}", "take np.moveaxis(z, -1, 1)")
    if z.shape[1] == 2 * channels:
        return Fault(
            "channels",
            f"{z.shape[1]} channels are mean and logarithm of the variance of a posterior, {wanted}",
            f"take z[:, :{channels}] times the scaling factor",
        )
    seen = f"{z.shape[1]} channels, {wanted}"
    return Fault("channels", seen, "this is another model's latent; decode it with that model")


def checked(z: Array, vae: FirstStage[Any], statistics: LatentStatistics | None) -> CheckedLatent:
    """Check one latent `(C, h, w)`."""
    values = np.asarray(z, np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        seen = f"{bad.sum()} of {bad.size} values are NaN or infinite"
        remedy = "a number overflowed on the way: compute in float32, or take a smaller guidance scale"
        nothing = np.full(len(z), np.nan)
        fault = Fault("finite", seen, remedy)
        return CheckedLatent(nothing, nothing, np.full(BANDS, np.nan), None, (fault,))
    found = summary(values)
    std = np.sqrt(np.diag(found.covariance))
    shares = found.power / max(float(np.square(std).mean()), FLAT**2)
    if statistics is None:
        return CheckedLatent(found.mean, std, shares, None, tuple(scale_faults(values, vae)))
    score = float(statistics.scores(values[None], vae)[0])
    return CheckedLatent(found.mean, std, shares, score, tuple(faults_of(values, score, vae, statistics)))


def scale_faults(z: Array, vae: FirstStage[Any]) -> Iterator[Fault]:
    """What can be said of the scale without statistics: scaling factors are chosen so that the deviation is about 1."""
    deviation = float(z.std())
    if 1 / WIDEST <= deviation <= WIDEST:
        return
    if deviation < FLAT:
        yield Fault("flat", f"all values are about {z.mean():.3g}", "this is no picture")
        return
    seen = f"the standard deviation is {deviation:.3g} and should be about 1"
    apart = {how: abs(np.log(float(change(vae, z[None]).std()))) for how, change in SCALINGS.items()}
    best = min(apart, key=lambda how: float(apart[how]))
    if apart[best] < np.log(WIDEST):
        yield Fault("scaling factor", seen, f"{best} the scaling factor, {vae.config.scaling_factor:g}")
    else:
        yield Fault("scale", seen, f"divide by {deviation:.3g}")


# The scaling was forgotten, or done twice: what undoes it, in words and in deed.
SCALINGS = {"multiply by": FirstStage.scale, "it was applied twice, divide by": FirstStage.unscale}


def faults_of(z: Array, score: float, vae: FirstStage[Any], statistics: LatentStatistics) -> Iterator[Fault]:
    """What is wrong with a latent `(C, h, w)` of this score."""
    if clipped := clipping(z):
        yield clipped
    elif score > 1 and z.std() < FLAT:
        yield Fault("flat", f"all values are about {z.mean():.3g}", "this is no picture")
    elif score > 1:
        yield explained(z, score, vae, statistics)


def explained(z: Array, score: float, vae: FirstStage[Any], statistics: LatentStatistics) -> Fault:
    """The mistake that explains a score above 1."""
    exact = list(exact_remedies(z, vae))
    after = statistics.scores(np.stack([undone for undone, _ in exact]), vae)
    k = int(after.argmin())
    best, fault = float(after[k]), exact[k][1]
    fitted, fitted_fault = min(
        scale_fitted(z, vae, statistics), shift_fitted(z, vae, statistics), key=lambda one: one[0]
    )
    if fitted < best / BETTER:
        best, fault = fitted, fitted_fault
    if best <= 1 and best < score / 1.5:  # it has to help, and much
        return fault
    return noise_fault(z, vae) or Fault(
        "unlike",
        f"the score is {score:.1f}, and no simple mistake explains it ({farthest(summary(z), statistics)})",
        "is it another model's latent, or a picture unlike those of the statistics?",
    )


def clipping(z: Array) -> Fault | None:
    """Whether many values are the very largest or the very least."""
    if z.size < 2 or z.min() == z.max():
        return None
    top, bottom = (int((z == edge).sum()) for edge in (z.max(), z.min()))
    if max(top, bottom) < max(4, 0.002 * z.size):
        return None
    share = ((top if top > 3 else 0) + (bottom if bottom > 3 else 0)) / z.size
    seen = f"{100 * share:.1f} % of the values are exactly {z.max():.3g} or {z.min():.3g}"
    return Fault("clipped", seen, "don't clip latents: they are no pictures, and have no range")


def exact_remedies(z: Array, vae: FirstStage[Any]) -> Iterator[tuple[Array, Fault]]:
    """The mistakes that have nothing to fit, each undone."""
    if abs(np.log(vae.config.scaling_factor)) > 0.1:
        for how, change in SCALINGS.items():
            seen = f"the standard deviation is {z.std():.2f}"
            fault = Fault("scaling factor", seen, f"{how} the scaling factor, {vae.config.scaling_factor:g}")
            yield change(vae, z[None])[0], fault
    yield -z, Fault("sign", "all signs are turned", "negate it")
    for order in orders(len(z)):
        fault = Fault("channels swapped", "the channels are in another order", f"take z[:, {list(order)}]")
        yield z[list(order)], fault


def orders(channels: int) -> Iterator[tuple[int, ...]]:
    """Orders of channels that are tried: all of a few, of many two exchanged or all reversed."""
    same = tuple(range(channels))
    if channels <= 4:
        yield from (order for order in permutations(same) if order != same)
        return
    yield same[::-1]
    for i, j in combinations(same, 2):
        swapped = list(same)
        swapped[i], swapped[j] = j, i
        yield tuple(swapped)


def scale_fitted(z: Array, vae: FirstStage[Any], statistics: LatentStatistics) -> tuple[float, Fault]:
    """The factor that fits best, and the score without it."""
    factors = 2.0 ** np.arange(-4, 4.1, 0.5)
    for step in (0.25, 0.125):
        best = factors[statistics.scores(z / factors[:, None, None, None], vae).argmin()]
        factors = best * 2.0 ** np.array([-step, 0, step])
    after = statistics.scores(z / factors[:, None, None, None], vae)
    factor = factors[after.argmin()]
    fault = Fault("scale", f"the values are about {factor:.2g} times as large as usual", f"divide by {factor:.2g}")
    return float(after.min()), fault


def shift_fitted(z: Array, vae: FirstStage[Any], statistics: LatentStatistics) -> tuple[float, Fault]:
    """The shift that fits best, and the score without it."""
    shifts = np.arange(-2.5, 2.6, 0.5)
    for step in (0.25, 0.125):
        best = shifts[statistics.scores(z - shifts[:, None, None, None], vae).argmin()]
        shifts = best + np.array([-step, 0, step])
    after = statistics.scores(z - shifts[:, None, None, None], vae)
    shift = shifts[after.argmin()]
    return float(after.min()), Fault("shift", f"all values are about {shift:+.2g} off", f"subtract {shift:.2g}")


def noise_fault(z: Array, vae: FirstStage[Any]) -> Fault | None:
    """Whether what a round trip takes away is white: as strong in the fine as in the coarse bands."""
    once = middle(z[None]).astype(vae.runtime.dtype)
    again = vae.scale(vae.encode(np.clip(vae.decode(vae.unscale(once)), -1, 1))[0])
    lost = summary((once - again)[0])
    variance = float(np.diag(lost.covariance).mean())
    if not (lost.power[-1] > 0.8 * variance and lost.power[0] < 4 * variance):
        return None
    deviation = np.sqrt(variance)
    return Fault(
        "noise",
        f"there is white noise in it, of a deviation of {deviation:.2g} or more",
        "let the sampler take all its steps, to a noise level of 0",
    )


def farthest(found: Summary, statistics: LatentStatistics) -> str:
    """The feature that is farthest from the usual, in words."""
    c = statistics.channels
    pairs = list(combinations(range(c), 2)) if c <= MOST_CORRELATED else []
    names = [f"mean of channel {k}" for k in range(c)] + [f"deviation of channel {k}" for k in range(c)]
    names += [f"correlation of channels {i} and {j}" for i, j in pairs]
    names += [f"power in band {k} of {BANDS}" for k in range(BANDS)]
    away = np.nan_to_num((found.features() - statistics.features) / np.sqrt(np.diag(statistics.covariance)))
    k = int(np.abs(away).argmax())
    return f"farthest off: {names[k]}, {away[k]:+.1f} deviations"
