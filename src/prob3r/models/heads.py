"""Heads: from the decoders' states to a pointmap and a confidence."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.models.layers import Mlp


def decode_points(
    raw: Float[Tensor, "*b 4"],
) -> tuple[Float[Tensor, "*b 3"], Float[Tensor, "*b"]]:
    """Return points and confidences from a head's raw output.

    A point is the direction of the first three numbers times `expm1` of their norm. A confidence is
    `1 + exp` of the fourth number (Wang et al., DUSt3R, CVPR 2024).
    """
    return expand_points(raw[..., :3]), 1 + raw[..., 3].exp()


def expand_points(raw: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
    """Return the points of three raw numbers each: their direction times `expm1` of their norm."""
    norm = raw.norm(dim=-1, keepdim=True)
    return raw / norm.clamp(min=1e-8) * norm.expm1()


def compress_points(points: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
    """Return the inverse of `expand_points`: the direction times `log1p` of the distance."""
    norm = points.norm(dim=-1, keepdim=True)
    return points / norm.clamp(min=1e-8) * norm.log1p()


class LinearHead(nn.Module):
    """One linear layer that gives each patch its own pixels.

    Args:
        width: Width of the last state.
        patch: Side of a patch, in pixels.
        out: Number of outputs for each pixel.
    """

    def __init__(self, width: int, patch: int, out: int = 4):
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(width, out * patch * patch)

    def forward(
        self, states: Sequence[Float[Tensor, "b n _"]], grid: tuple[int, int]
    ) -> Float[Tensor, "b h w c"]:
        """Return the raw output of every pixel, computed from the last state."""
        raw = self.proj(states[-1]).transpose(1, 2).unflatten(2, grid)
        return F.pixel_shuffle(raw, self.patch).permute(0, 2, 3, 1)


class DPTHead(nn.Module):
    """Dense prediction head over four states of the network (Ranftl et al., DPT, ICCV 2021).

    The states are the encoder's output, two states inside the decoder, and the decoder's last one.
    They are resized to 1/4, 1/8, 1/16 and 1/32 of the image's size and fused from coarse to fine.
    """

    def __init__(self, widths: Sequence[int], features: int = 256):
        super().__init__()
        self.dpt = _DPT(widths, features)

    def forward(
        self, states: Sequence[Float[Tensor, "b n _"]], grid: tuple[int, int]
    ) -> Float[Tensor, "b h w 4"]:
        """Return the raw output of every pixel, computed from the four states of `dpt_states`."""
        maps = [state.transpose(1, 2).unflatten(2, grid) for state in states]
        return self.dpt(maps).permute(0, 2, 3, 1)


class DescriptorHead(DPTHead):
    """A DPT head, and a perceptron that predicts the descriptors of the pixels of each patch.

    The perceptron reads the encoder's output and the decoder's last state (Leroy et al.,
    "Grounding Image Matching in 3D with MASt3R", ECCV 2024).
    """

    def __init__(self, widths: Sequence[int], patch: int, descriptors: int):
        super().__init__(widths)
        self.patch = patch
        width = widths[0] + widths[-1]
        self.head_local_features = Mlp(width, out=(descriptors + 1) * patch * patch)

    def describe(
        self, states: Sequence[Float[Tensor, "b n _"]], grid: tuple[int, int]
    ) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b h w"]]:
        """Return a descriptor of unit length for every pixel, and the logarithm of its confidence.

        Args:
            states: As for `forward`.
            grid: Rows and columns of the patches.
        """
        raw = self.head_local_features(torch.cat((states[0], states[-1]), -1))
        pixels = F.pixel_shuffle(raw.transpose(1, 2).unflatten(2, grid), self.patch)
        pixels = pixels.permute(0, 2, 3, 1)
        descriptors = pixels[..., :-1]
        return descriptors / descriptors.norm(dim=-1, keepdim=True), pixels[..., -1]


def dpt_states(blocks: int) -> tuple[int, int, int, int]:
    """Return the states that a DPT head reads, given the number of blocks; state 0 is the input."""
    return 0, blocks // 2, blocks * 3 // 4, blocks


class _DPT(nn.Module):
    def __init__(self, widths: Sequence[int], features: int):
        super().__init__()
        channels = (96, 192, 384, 768)
        resample: list[nn.Module] = [
            nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
            nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
            nn.Identity(),
            nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
        ]
        self.act_postprocess = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channel, 1), layer)
            for width, channel, layer in zip(widths, channels, resample, strict=True)
        )
        self.scratch = nn.Module()
        self.scratch.layer_rn = nn.ModuleList(
            nn.Conv2d(channel, features, 3, padding=1, bias=False) for channel in channels
        )
        for level in range(1, 5):
            self.scratch.add_module(f"refinenet{level}", Fusion(features))
        half = features // 2
        self.head = nn.Sequential(
            nn.Conv2d(features, half, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(half, half, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(half, 4, 1),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = [
            self.scratch.get_submodule(f"layer_rn.{i}")(resample(state))
            for i, (resample, state) in enumerate(zip(self.act_postprocess, maps, strict=True))
        ]
        fused = self.scratch.get_submodule("refinenet4")(levels[3])
        for level in (2, 1, 0):
            # If a side of the grid is odd, the coarse level is one row or column too large.
            fused = fused[..., : levels[level].shape[-2], : levels[level].shape[-1]]
            fused = self.scratch.get_submodule(f"refinenet{level + 1}")(fused, levels[level])
        return self.head(fused)


class Fusion(nn.Module):
    """Adds a finer level to the coarse path, refines it, and resizes it to the next level's size.

    Args:
        features: Channels of all levels.
        coarsest: Whether this is the first fusion, which has no level to add.
        rectified: Whether the residual units add `relu(x)`, as VGGT's do, instead of `x`.
    """

    def __init__(self, features: int, coarsest: bool = False, rectified: bool = False):
        super().__init__()
        if not coarsest:
            self.resConfUnit1 = _ResidualConv(features, rectified)
        self.resConfUnit2 = _ResidualConv(features, rectified)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(
        self, path: Tensor, level: Tensor | None = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the path after this level, at twice its size or at a given one."""
        if level is not None:
            path = path + self.resConfUnit1(level)
        path = self.resConfUnit2(path)
        size = size or (2 * path.shape[-2], 2 * path.shape[-1])
        # The official code interpolates first. The two commute, as the weights of an interpolation
        # sum to one, and this convolution is cheaper on the smaller map.
        return F.interpolate(self.out_conv(path), size, mode="bilinear", align_corners=True)


class _ResidualConv(nn.Module):
    def __init__(self, features: int, rectified: bool):
        super().__init__()
        self.rectified = rectified
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        positive = torch.relu(x)
        return (positive if self.rectified else x) + self.conv2(torch.relu(self.conv1(positive)))
