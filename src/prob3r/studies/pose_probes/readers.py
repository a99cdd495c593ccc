"""Probes that read a camera's pose off single tokens, or off the mean of all patches.

What they are fitted to, and by which constants, is said in `pose_probes.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prob3r.geometry import median, rotation_error
from prob3r.scenes.views import Pair

FITTED, HELD_OUT = 768, 256  # rooms
PENALTY = 1e-2  # of the ridge, times the number of rooms
HIDDEN, STEPS, BATCH, RATE = 128, 400, 256, 2e-3  # of the MLP
CHECK_EVERY = 20  # steps

LINEAR, MLP = "linear", "mlp"
BEST, POOLED = "best", "pooled"
_SMALLEST = 1e-4  # a standard deviation under which a feature does not vary


class Pose(NamedTuple):
    """Poses of camera 2 in camera 1's frame, without the length of the translation."""

    rotation: Float[Tensor, "*b 3 3"]
    direction: Float[Tensor, "*b 3"]

    @classmethod
    def of(cls, numbers: Float[Tensor, "*b 12"]) -> "Pose":
        """Return the poses that are nearest to a probe's numbers."""
        import roma  # here, so that models train on machines without it

        rotation = roma.special_procrustes(numbers[..., :9].unflatten(-1, (3, 3)))
        return cls(rotation, F.normalize(numbers[..., 9:], dim=-1))


def pose_numbers(pair: Pair) -> Float[Tensor, "b 12"]:
    """Return the numbers that a probe shall give for every pair."""
    pose = pair.view2_to_view1
    return torch.cat((pose[:, :3, :3].flatten(1), F.normalize(pose[:, :3, 3], dim=-1)), 1)


@dataclass(frozen=True)
class PoseReader:
    """Linear probes and MLPs of some tokens at some sites.

    Attributes:
        tokens: Names of what is read, such as `best`, `centre` and `pooled`.
        places: The token that each name stands for at each site; the number of all tokens stands
            for the mean over patches.
        patches: Where the patches are among the tokens.
        mean: Of the features over the rooms, by which they are centred.
        scale: Standard deviation of the features, by which they are divided.
        average: Mean of the numbers over the rooms: the mean pose.
        linear: Weights of the linear probes.
        mlp: Weights of the MLPs.
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
        streams: Sequence[Float[Tensor, "b n d"]],
        numbers: Float[Tensor, "b t"],
        patches: slice,
        singles: Mapping[str, int],
        seed: int = 0,
    ) -> "PoseReader":
        """Return probes fitted to the first of some rooms, and chosen by the rest.

        Args:
            streams: The stream of each site, of `FITTED` and then any number of held-out rooms.
            numbers: What to read of each room.
            patches: Where the patches are among the tokens.
            singles: Single tokens to read beside the best patch, by name.
            seed: Of the MLPs.
        """
        average = numbers[:FITTED].mean(0)
        centred = numbers - average
        names = [BEST, *singles, POOLED]
        parts = []
        for stream in streams:
            features = with_mean(stream, patches).transpose(0, 1)
            mean, scale = _moments(features[:, :FITTED])
            features = (features - mean[:, None]) / scale[:, None]
            weights = ridge(features[:, :FITTED], centred[:FITTED])
            held_out = features[patches, FITTED:]
            best = _best_patch(held_out, weights[patches], numbers, average)
            chosen = torch.tensor([patches.start + best, *singles.values(), len(features) - 1])
            parts.append([chosen, *(t[chosen] for t in (mean, scale, weights, features))])
        places, mean, scale, linear, features = (
            torch.stack(tensors) for tensors in zip(*parts, strict=True)
        )
        mlp = fit_mlps(features.flatten(0, 1), centred, seed)
        return cls(names, places, patches, mean, scale, average, linear, mlp)

    def read(
        self, streams: Sequence[Float[Tensor, "b n d"]]
    ) -> dict[str, Float[Tensor, "s j b t"]]:
        """Return the numbers that every kind of probe gives for every token at every site."""
        chosen = torch.stack(
            [
                with_mean(stream, self.patches)[:, places].transpose(0, 1)
                for stream, places in zip(streams, self.places, strict=True)
            ]
        )
        features = (chosen - self.mean[:, :, None]) / self.scale[:, :, None]
        sites = features.shape[:2]
        return {
            LINEAR: features @ self.linear + self.average,
            MLP: run_mlps(self.mlp, features.flatten(0, 1)).unflatten(0, sites) + self.average,
        }


def with_mean(stream: Float[Tensor, "b n d"], patches: slice) -> Float[Tensor, "b m d"]:
    """Return all tokens, in float32, and after them the mean over the patches."""
    stream = torch.Tensor(stream).float()
    return torch.cat((stream, stream[:, patches].mean(1, keepdim=True)), 1)


def ridge(
    features: Float[Tensor, "*p b d"], targets: Float[Tensor, "b t"]
) -> Float[Tensor, "*p d t"]:
    """Return the weights of least squared error plus `PENALTY` times `b` times squared weights."""
    b, d = features.shape[-2:]
    gram = features.mT @ features + PENALTY * b * torch.eye(d, device=features.device)
    solved: Tensor = torch.linalg.solve(gram, features.mT @ targets)
    return solved


def fit_mlps(
    features: Float[Tensor, "p b d"], targets: Float[Tensor, "b t"], seed: int
) -> list[Tensor]:
    """Return the weights of two-layer perceptrons, each trained as if it were alone.

    Args:
        features: Of each of them, over `FITTED` rooms to learn from and the rest to stop by.
        targets: What all of them shall say.
        seed: Of the weights and of the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    p, _, d = features.shape
    t = targets.shape[1]
    shapes = [(p, d, HIDDEN), (p, 1, HIDDEN), (p, HIDDEN, t), (p, 1, t)]
    # Drawn as torch.nn.Linear does, between -1 and 1 over the root of the number of inputs.
    weights = [
        ((2 * torch.rand(shape, generator=generator) - 1) / width**0.5).to(features.device)
        for shape, width in zip(shapes, (d, d, HIDDEN, HIDDEN), strict=True)
    ]
    kept, least = [w.clone() for w in weights], features.new_full((p,), torch.inf)
    optimizer = torch.optim.Adam([w.requires_grad_() for w in weights], lr=RATE)
    for step in range(1, STEPS + 1):
        rows = torch.randint(FITTED, (BATCH,), generator=generator).to(features.device)
        with torch.enable_grad():
            losses = _squared_error(weights, features[:, rows], targets[rows])
            optimizer.zero_grad()
            losses.sum().backward()
        optimizer.step()
        if step % CHECK_EVERY == 0:
            with torch.no_grad():
                held = _squared_error(weights, features[:, FITTED:], targets[FITTED:])
                for keep, weight in zip(kept, weights, strict=True):
                    keep[held < least] = weight[held < least]
            least = least.minimum(held)
    return kept


def run_mlps(weights: Sequence[Tensor], features: Float[Tensor, "p b d"]) -> Float[Tensor, "p b t"]:
    """Return what each of the perceptrons says."""
    first, bias1, second, bias2 = weights
    return F.gelu(features @ first + bias1) @ second + bias2


def _squared_error(
    weights: Sequence[Tensor], features: Float[Tensor, "p b d"], targets: Float[Tensor, "b t"]
) -> Float[Tensor, " p"]:
    return (run_mlps(weights, features) - targets).square().mean((1, 2))


def _moments(
    features: Float[Tensor, "p b d"],
) -> tuple[Float[Tensor, "p d"], ...]:
    """Return mean and standard deviation; 1 for a feature that does not vary."""
    scale = features.std(1)
    return features.mean(1), scale.where(scale > _SMALLEST, 1)


def _best_patch(
    features: Float[Tensor, "p b d"],
    weights: Float[Tensor, "p d t"],
    numbers: Float[Tensor, "n t"],
    average: Float[Tensor, " t"],
) -> int:
    """Return the patch whose linear probe has the least median rotation error, held out."""
    p, b, _ = features.shape
    found = Pose.of(features @ weights + average).rotation.flatten(0, 1)
    true = numbers[FITTED:, :9].unflatten(-1, (3, 3)).repeat(p, 1, 1)
    return int(median(rotation_error(found, true).unflatten(0, (p, b))).argmin())
