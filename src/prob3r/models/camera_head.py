"""VGGT's camera head, and conversion between its encodings and cameras.

Architecture: Wang et al., "VGGT: Visual Geometry Grounded Transformer", CVPR 2025. Parameter names
are those of the official checkpoints.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.models.camera_encoding import ENCODING, encode, intrinsics_of, inverses, motion_of
from prob3r.models.layers import Mlp, ViewsBlock, layer_norm, sublayer
from prob3r.models.protocol import Cameras, Stack, TokenLayout
from prob3r.models.sites import Site, Tap


def cameras_of(encoding: Float[Tensor, "b v 9"], size: tuple[int, int]) -> Cameras:
    """Return cameras from VGGT's encodings.

    An encoding has the motion from the world to the camera. A field of view of 0 gives an
    infinite focal length.

    Args:
        encoding: The encoding of each view.
        size: Height and width of the images, in pixels.
    """
    return Cameras(inverses(motion_of(encoding)), intrinsics_of(encoding, size))


def encoding_of(cameras: Cameras, size: tuple[int, int]) -> Float[Tensor, "b v 9"]:
    """Return VGGT's encodings of cameras.

    Args:
        cameras: With intrinsics.
        size: Height and width of the images, in pixels.
    """
    assert cameras.intrinsics is not None
    return encode(inverses(cameras.cam_to_world), cameras.intrinsics, size)


class CameraHead(nn.Module):
    """Computes the cameras of all views from their camera tokens, in several iterations.

    Every iteration starts from the same tokens, shifted and scaled depending on the current cameras
    (`modulation`), and runs the same blocks, in which all views attend to each other.

    Args:
        width: Width of the tokens.
        depth: Blocks of an iteration.
        heads: Heads of every attention.
        iterations: Number of iterations.
    """

    def __init__(self, width: int, depth: int, heads: int, iterations: int):
        super().__init__()
        self.heads, self.iterations = heads, iterations
        self.trunk = nn.ModuleList(ViewsBlock(width, heads, joint=True) for _ in range(depth))
        self.token_norm = layer_norm(width, 1e-5)
        self.trunk_norm = layer_norm(width, 1e-5)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, ENCODING))
        self.embed_pose = nn.Linear(ENCODING, width)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.pose_branch = Mlp(width, width // 2, ENCODING)
        # Fresh cameras are near the identity, with fields of view of 1 radian: a field of view that
        # starts below 0 would have no gradient.
        nn.init.normal_(self.pose_branch.fc2.weight, std=0.01)
        with torch.no_grad():
            self.pose_branch.fc2.bias.copy_(torch.tensor([0.0] * 6 + [1.0] * 3) / iterations)

    def stack(self, name: str = "cam") -> Stack:
        """Return the stack of its blocks, iteration after iteration."""
        block = ("global_attn", "global_mlp")
        iteration = (("modulation", *block), *((block,) * (len(self.trunk) - 1)))
        layouts = (TokenLayout(("camera",)),)
        width = self.token_norm.normalized_shape[0]
        return Stack(name, width, self.heads, iteration * self.iterations, layouts, patches=False)

    def ends(self, block: int | None = None) -> list[Site]:
        """Return the sites of view 1 at the end of every iteration, or of those before a block."""
        depth = len(self.trunk)
        last = self.iterations if block is None else block // depth
        return [Site("cam", 1, (i + 1) * depth - 1, "global_mlp") for i in range(last)]

    def forward(
        self, views: int, read: Callable[[int], Float[Tensor, "b 1 d"]], tap: Tap
    ) -> list[Float[Tensor, "b v 9"]]:
        """Return the encodings of all cameras after each iteration.

        Args:
            views: Number of views.
            read: Returns the camera token of a view; views count from 0 here.
            tap: Called at every site.
        """
        names = [f"cam{view + 1}" for view in range(views)]

        def embed(chosen: list[int]) -> Sequence[Tensor]:
            return [self.token_norm(read(i)) for i in chosen]

        tokens = sublayer(tap, [f"{name}.embed" for name in names], embed)
        raw: Tensor | None = None
        found = []
        for first in range(0, self.iterations * len(self.trunk), len(self.trunk)):
            streams = self._modulated(tokens, raw, tap, [f"{n}.{first}.modulation" for n in names])
            for i, block in enumerate(self.trunk, first):
                streams = block(streams, None, tap, [f"{name}.{i}" for name in names])
            step = self.pose_branch(self.trunk_norm(torch.cat(streams, 1)))
            raw = step if raw is None else raw + step
            found.append(torch.cat((raw[..., :7], raw[..., 7:].relu()), -1))
        return found

    def _modulated(
        self, tokens: Sequence[Tensor], raw: Tensor | None, tap: Tap, sites: Sequence[str]
    ) -> list[Tensor]:
        """Return the tokens, shifted and scaled by the raw encodings so far."""

        def modulation(chosen: list[int]) -> Sequence[Tensor]:
            x = torch.cat([tokens[i] for i in chosen], 1)
            pose = self.empty_pose_tokens.expand(len(x), len(chosen), -1)
            if raw is not None:
                pose = raw[:, chosen]
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(pose)).chunk(3, -1)
            plain = F.layer_norm(x, x.shape[-1:], eps=1e-6)
            return (gate * (plain * (1 + scale) + shift) + x).split(1, 1)

        return sublayer(tap, sites, modulation)
