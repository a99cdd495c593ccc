"""Probes of a target of pairs that read single tokens of a view, or the mean of its patches.

`RidgeBank` reads only the mean or one special token, in one pass over any number of scenes. Here
tokens of some scenes are in memory. The best patch of a site can then be found, and perceptrons can
be trained.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prob3r.geometry import median
from prob3r.probes.equations import regress
from prob3r.probes.perceptrons import fit_mlps, run_mlps
from prob3r.probes.targets import TRUTH, Goals, Target

PENALTY = 1e-2  # the ridge of the regression, divided by the number of rows
LINEAR, MLP = "linear", "mlp"
BEST, POOLED = "best", "pooled"
MOST_PATCHES = 256  # the number that is kept of a view with more; it bounds the memory
_SMALLEST = 1e-4  # a standard deviation under which a feature does not vary


class KeptTokens(NamedTuple):
    """The tokens of a view that are kept.

    Attributes:
        kept: Indices of these tokens, in their order.
        patches: Where the patches are among all tokens.
        tokens: How many tokens the view has.
    """

    kept: Int[Tensor, " m"]
    patches: slice
    tokens: int

    @classmethod
    def of(cls, tokens: int, patches: slice, singles: Iterable[int]) -> "KeptTokens":
        """Keep single tokens, and `MOST_PATCHES` evenly spaced patches, or all of fewer.

        Args:
            tokens: How many tokens the view has.
            patches: Where the patches are among them.
            singles: Indices of the single tokens.
        """
        count = min(patches.stop - patches.start, MOST_PATCHES)
        spaced = torch.linspace(patches.start, patches.stop - 1, count).round().long()
        return cls(torch.cat((spaced, torch.tensor([*singles]))).unique(), patches, tokens)

    def take(self, stream: Float[Tensor, "b n d"]) -> "Taken":
        """Return these tokens of a stream, and the mean of all its patches."""
        stream = torch.Tensor(stream)
        return Taken(stream[:, self.kept.to(stream.device)], _mean(stream, self.patches))


class Taken(NamedTuple):
    """What is kept of a stream.

    Attributes:
        tokens: The kept tokens, in the stream's type.
        mean: The mean of all patches in float32: scenes differ little in it.
    """

    tokens: Float[Tensor, "b m d"]
    mean: Float[Tensor, "b d"]

    @classmethod
    def join(cls, parts: Iterable["Taken"]) -> "Taken":
        """Return several batches as one."""
        return cls(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@dataclass(frozen=True)
class TokenProbes:
    """Linear probes and perceptrons of some tokens at some sites.

    Attributes:
        tokens: Names of what is read, such as `best`, `centre` and `pooled`.
        places: Index of the token of each name at each site. An index equal to the number of
            tokens means the mean over patches.
        patches: Where the patches are among the tokens.
        mean: Mean of the features over the fitted scenes; it is subtracted.
        scale: Standard deviation of the features over the fitted scenes; they are divided by it.
        average: Mean of the target over the fitted scenes: the prediction without features.
        linear: Weights of the linear probes.
        mlp: Weights of the perceptrons.
    """

    tokens: Sequence[str]
    places: Int[Tensor, "s j"]
    patches: slice
    mean: Float[Tensor, "s j d"]
    scale: Float[Tensor, "s j d"]
    average: Float[Tensor, " t"]
    linear: Float[Tensor, "s j d t"]
    mlp: Sequence[Tensor]

    @classmethod
    def fit(
        cls,
        target: Target,
        streams: Iterable[Taken],
        goals: Goals,
        fitted: int,
        tokens: KeptTokens,
        singles: Mapping[str, int],
        seed: int = 0,
    ) -> "TokenProbes":
        """Return probes fitted to the first scenes. The other scenes choose the best patch.

        Args:
            target: The target of the probes.
            streams: What is kept of the stream of each site: the fitted scenes first, then the
                held-out scenes.
            goals: The target's values for each scene.
            fitted: Number of fitted scenes.
            tokens: The tokens that the streams hold.
            singles: Indices of single tokens to read in addition to the best patch, by name.
            seed: Seed of the perceptrons' weights and batches.
        """
        average = goals.raw[:fitted].mean(0)
        centred = goals.raw - average
        held = goals.rows(torch.arange(len(goals.raw), device=average.device) >= fitted)
        names = [BEST, *singles, POOLED]
        kept = tokens.kept.tolist()
        rows = [kept.index(token) for token in singles.values()]
        first, stop = tokens.patches.start, tokens.patches.stop
        patches = [row for row, token in enumerate(kept) if first <= token < stop]
        numbers = torch.tensor([*kept, tokens.tokens])
        parts = []
        for stream in streams:
            features = torch.cat((stream.tokens.float(), stream.mean[:, None]), 1).transpose(0, 1)
            mean, scale = _moments(features[:, :fitted])
            features = (features - mean[:, None]) / scale[:, None]
            weights = regress(features[:, :fitted], centred[:fitted], PENALTY)
            read = features[patches, fitted:] @ weights[patches] + average
            best = patches[_least_wrong(target, read, held)]
            chosen = torch.tensor([best, *rows, len(kept)])
            parts.append([numbers[chosen], *(t[chosen] for t in (mean, scale, weights, features))])
        places, mean, scale, linear, features = (
            torch.stack(tensors) for tensors in zip(*parts, strict=True)
        )
        mlp = fit_mlps(features.flatten(0, 1), centred, fitted, seed)
        return cls(names, places, tokens.patches, mean, scale, average, linear, mlp)

    def read(
        self, streams: Sequence[Float[Tensor, "b n d"]]
    ) -> dict[str, Float[Tensor, "s j b t"]]:
        """Return the predictions of each kind of probe, `linear` and `mlp`, by site and token."""
        chosen = torch.stack(
            [
                _with_mean(stream, self.patches)[:, places].transpose(0, 1)
                for stream, places in zip(streams, self.places, strict=True)
            ]
        )
        features = (chosen - self.mean[:, :, None]) / self.scale[:, :, None]
        sites = features.shape[:2]
        return {
            LINEAR: features @ self.linear + self.average,
            MLP: run_mlps(self.mlp, features.flatten(0, 1)).unflatten(0, sites) + self.average,
        }


def _with_mean(stream: Float[Tensor, "b n d"], patches: slice) -> Float[Tensor, "b m d"]:
    """Return all tokens, in float32, and after them the mean over the patches."""
    return torch.cat((torch.Tensor(stream).float(), _mean(stream, patches)[:, None]), 1)


def _mean(stream: Float[Tensor, "b n d"], patches: slice) -> Float[Tensor, "b d"]:
    return torch.Tensor(stream)[:, patches].float().mean(1)


def _moments(
    features: Float[Tensor, "p b d"],
) -> tuple[Float[Tensor, "p d"], ...]:
    """Return the mean and the standard deviation, which is 1 for a feature that does not vary."""
    scale = features.std(1)
    return features.mean(1), scale.where(scale > _SMALLEST, 1)


def _least_wrong(target: Target, read: Float[Tensor, "p b t"], goals: Goals) -> int:
    """Return the patch whose probe has the least median error on the held-out scenes."""
    p, b, _ = read.shape
    units = goals.units[TRUTH].repeat(p)
    beside = None if goals.beside is None else goals.beside.repeat(p, 1, 1)
    errors = target.errors(read.flatten(0, 1), goals.raw.repeat(p, 1), units, beside)
    return int(median(errors[target.measures[0]].unflatten(0, (p, b))).argmin())
