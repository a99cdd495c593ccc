"""Depth Anything 3's heads: depth and rays from one pyramid, and cameras from camera tokens.

Architecture: Lin et al., "Depth Anything 3: Recovering the Visual Space from Any Views", 2025.
Parameter names are those of the official checkpoints.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.models.camera_encoding import ENCODING
from prob3r.models.dense_head import HIDDEN, DenseHead, positions
from prob3r.models.layers import Mlp, ViewsBlock, layer_norm
from prob3r.models.sites import Tap

RAY = 7
"""Numbers of a ray: direction and origin, and the logarithm of its confidence minus 1."""

_LEVEL = "3"  # the only one of the official head's four levels whose rays are used


class RayHead(DenseHead):
    """A dense head with a second path, which predicts 8 x 8 rays for each patch.

    Arguments are those of `DenseHead`.
    """

    def __init__(self, width: int, out: int, features: int, channels: Sequence[int]):
        super().__init__(width, out, features, channels, rectified=False)
        self.add_fusions("refinenet{}_aux", features, rectified=False)
        half = features // 2
        sizes = (features, half, features, half, features, half)
        neck = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes)))
        last = nn.ModuleDict(
            {
                "0": nn.Conv2d(half, HIDDEN, 3, padding=1),
                "2": layer_norm(HIDDEN, 1e-5),
                "5": nn.Conv2d(HIDDEN, RAY, 1),
            }
        )
        self.scratch.output_conv1_aux = nn.ModuleDict({_LEVEL: neck})
        self.scratch.output_conv2_aux = nn.ModuleDict({_LEVEL: last})

    def rays(
        self,
        states: Sequence[Float[Tensor, "b n d"]],
        grid: tuple[int, int],
        size: tuple[int, int],
    ) -> Float[Tensor, "b r c 7"]:
        """Return the raw numbers of rays, 8 of them to a patch side; see `DenseHead.forward`."""
        path = self.fused(self.levels(states, grid, size), "refinenet{}_aux")
        path = self.scratch.get_submodule(f"output_conv1_aux.{_LEVEL}")(path)
        path = path + positions(path, size)
        convolution, norm, last = (
            self.scratch.get_submodule(f"output_conv2_aux.{_LEVEL}.{part}") for part in "025"
        )
        plain = norm(convolution(path).permute(0, 2, 3, 1))
        raw: Tensor = last(torch.relu(plain).permute(0, 3, 1, 2))
        return raw.permute(0, 2, 3, 1)


class CameraDecoder(nn.Module):
    """Computes the encoding of a camera from its token."""

    def __init__(self, width: int):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.fc_t = nn.Linear(width, 3)
        self.fc_qvec = nn.Linear(width, 4)
        fov = nn.Linear(width, 2)
        self.fc_fov = nn.Sequential(fov, nn.ReLU())
        # Fresh cameras are near the identity, with fields of view of 1 radian: a field of view that
        # starts below 0 would have no gradient.
        for layer, start in (
            (self.fc_t, (0.0, 0, 0)),
            (self.fc_qvec, (0.0, 0, 0, 1)),
            (fov, (1.0, 1)),
        ):
            nn.init.normal_(layer.weight, std=0.01)
            with torch.no_grad():
                layer.bias.copy_(torch.tensor(start))

    def forward(self, tokens: Float[Tensor, "b v d"]) -> Float[Tensor, "b v 9"]:
        """Return the encodings of the cameras of all views."""
        read = self.backbone(tokens)
        return torch.cat((self.fc_t(read), self.fc_qvec(read), self.fc_fov(read)), -1)


class CameraEncoder(nn.Module):
    """Computes camera tokens from encodings of cameras; all views of a scene attend to each other.

    Args:
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Heads of every attention.
    """

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        self.trunk = nn.ModuleList(ViewsBlock(width, heads) for _ in range(depth))
        self.token_norm = layer_norm(width, 1e-5)
        self.trunk_norm = layer_norm(width, 1e-5)
        self.pose_branch = Mlp(ENCODING, width // 2, width)

    def forward(self, encoding: Float[Tensor, "b v 9"]) -> Float[Tensor, "b v d"]:
        """Return the tokens of all views."""
        streams = [self.token_norm(self.pose_branch(encoding))]
        for block in self.trunk:
            streams = block(streams, None, Tap(), [""])
        tokens: Tensor = self.trunk_norm(streams[0])
        return tokens
