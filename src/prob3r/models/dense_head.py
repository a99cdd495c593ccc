"""VGGT's dense head: a DPT over four blocks of a trunk, with positions added to its maps.

Architecture: Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021, as changed in
Wang et al., "VGGT: Visual Geometry Grounded Transformer", CVPR 2025. Parameter names are those of
the official checkpoints.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.models.alternating import Layer
from prob3r.models.heads import Fusion
from prob3r.models.layers import layer_norm

MOST_IMAGES = 8
"""Views of each scene that the head takes at once, which bounds its memory."""

HIDDEN = 32
"""Channels before the last convolution."""

_POSITIONS = 0.1  # factor of positions when they are added


class DenseHead(nn.Module):
    """Computes outputs for every pixel of a view from four blocks of the trunk.

    Args:
        width: Width of the tokens that are read of each block.
        out: Number of outputs for each pixel.
        features: Channels of the fused maps.
        channels: Channels of the four maps before they are fused, the finest first.
        rectified: As in `Fusion`.
    """

    def __init__(
        self,
        width: int,
        out: int,
        features: int,
        channels: Sequence[int],
        *,
        rectified: bool = True,
    ):
        super().__init__()
        self.norm = layer_norm(width, 1e-5)
        self.projects = nn.ModuleList(nn.Conv2d(width, c, 1) for c in channels)
        first, second, _, last = channels
        self.resize_layers = nn.ModuleList(
            (
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(last, last, 3, stride=2, padding=1),
            )
        )
        self.scratch = nn.Module()
        for i, c in enumerate(channels, 1):
            convolution = nn.Conv2d(c, features, 3, padding=1, bias=False)
            self.scratch.add_module(f"layer{i}_rn", convolution)
        self.add_fusions("refinenet{}", features, rectified)
        half = features // 2
        self.scratch.output_conv1 = nn.Conv2d(features, half, 3, padding=1)
        self.scratch.output_conv2 = nn.Sequential(
            nn.Conv2d(half, HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(HIDDEN, out, 1)
        )

    def add_fusions(self, names: str, features: int, rectified: bool) -> None:
        """Add the modules that fuse four maps.

        Args:
            names: Names of the modules, the finest first, with `{}` in place of the number.
            features: Channels of the maps.
            rectified: As in `Fusion`.
        """
        for i in range(1, 5):
            self.scratch.add_module(names.format(i), Fusion(features, i == 4, rectified))

    def forward(
        self,
        states: Sequence[Float[Tensor, "b n d"]],
        grid: tuple[int, int],
        size: tuple[int, int],
    ) -> Float[Tensor, "b h w c"]:
        """Return the raw outputs of every pixel.

        Args:
            states: The tokens of each of the four blocks, patches only.
            grid: Rows and columns of the patches.
            size: Height and width of the images, in pixels.
        """
        path = self.fused(self.levels(states, grid, size), "refinenet{}")
        path = self.scratch.get_submodule("output_conv1")(path)
        path = F.interpolate(path, size, mode="bilinear", align_corners=True)
        path = path + positions(path, size)
        raw: Tensor = self.scratch.get_submodule("output_conv2")(path)
        return raw.permute(0, 2, 3, 1)

    def levels(
        self,
        states: Sequence[Float[Tensor, "b n d"]],
        grid: tuple[int, int],
        size: tuple[int, int],
    ) -> list[Float[Tensor, "b c _h _w"]]:
        """Return the maps of the four blocks, the finest first; arguments are those of `forward`.

        All have the same channels.
        """
        return [self._level(i, state, grid, size) for i, state in enumerate(states)]

    def fused(
        self, levels: Sequence[Float[Tensor, "b c _h _w"]], names: str
    ) -> Float[Tensor, "b c h w"]:
        """Fuse the four maps into one with twice the size of the finest one.

        Args:
            levels: The maps, the finest first.
            names: Names of the modules that fuse them; see `add_fusions`.
        """
        path: Tensor | None = None
        for i in (3, 2, 1, 0):
            finer = (levels[i - 1].shape[-2], levels[i - 1].shape[-1]) if i else None
            fusion = self.scratch.get_submodule(names.format(i + 1))
            path = fusion(levels[i] if path is None else path, None if i == 3 else levels[i], finer)
        assert path is not None
        return path

    def _level(
        self, i: int, state: Tensor, grid: tuple[int, int], size: tuple[int, int]
    ) -> Float[Tensor, "b c h w"]:
        """Return the map of a block, at its own size and with the channels of all maps."""
        plain = self.norm(state).transpose(1, 2).unflatten(2, grid)
        projected = self.projects[i](plain)
        resized = self.resize_layers[i](projected + positions(projected, size))
        level: Tensor = self.scratch.get_submodule(f"layer{i + 1}_rn")(resized)
        return level


def positions(maps: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "c h w"]:
    """Return the position embedding that is added to maps.

    The cells of a map form a grid with the shape of the image, centred at 0, with half the diagonal
    of the image as the unit. The first half of the channels depends on x, the second half on y. In
    each half, sines come first, then cosines.

    Args:
        maps: The maps; only their shape is used.
        size: Height and width of the images, in pixels.
    """
    _, channels, rows, columns = maps.shape
    height, width = size
    diagonal = (height**2 + width**2) ** 0.5
    exponents = torch.arange(channels // 4, dtype=torch.float64, device=maps.device)
    frequencies = 100 ** (-exponents / (channels // 4))

    def waves(extent: float, count: int) -> Float[Tensor, "c n"]:
        steps = torch.arange(count, dtype=torch.float64, device=maps.device)
        cells = extent * ((2 * steps + 1) / count - 1)
        angles = frequencies[:, None] * cells
        return _POSITIONS * torch.cat((angles.sin(), angles.cos())).to(maps.dtype)

    x, y = waves(width / diagonal, columns), waves(height / diagonal, rows)
    across = x[:, None].expand(-1, rows, -1)
    return torch.cat((across, y[:, :, None].expand(-1, -1, columns)))


def every_view(
    head: Callable[[list[Tensor]], Float[Tensor, "_ h w c"]],
    states: Sequence[Layer],
    tokens: slice,
) -> list[Float[Tensor, "b h w c"]]:
    """Return the output of a head for every view. The head runs over a few views at a time.

    Args:
        head: Takes the tokens of the four blocks, with all scenes of one view first.
        states: The four blocks.
        tokens: The slice of the patches in a stream.
    """
    views = len(states[0].frame)
    found: list[Tensor] = []
    for start in range(0, views, MOST_IMAGES):
        chosen = range(start, min(start + MOST_IMAGES, views))
        read = [torch.cat([layer.joined(v, tokens) for v in chosen]).float() for layer in states]
        found += head(read).chunk(len(chosen))
    return found
