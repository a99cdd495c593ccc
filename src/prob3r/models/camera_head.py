"""VGGT's camera head, and its encoding of cameras as nine numbers.

Architecture: Wang et al., "VGGT: Visual Geometry Grounded Transformer", CVPR 2025. Parameter names
are those of the official checkpoints.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.geometry import invert_rigid
from prob3r.models.layers import Mlp, ViewsBlock, layer_norm, sublayer
from prob3r.models.protocol import Cameras, Stack, TokenLayout
from prob3r.models.sites import Site, Tap

ENCODING = 9
"""Numbers in an encoding: translation, quaternion (real part last), and two fields of view."""


def cameras_of(encoding: Float[Tensor, "b v 9"], size: tuple[int, int]) -> Cameras:
    """Return the cameras that encodings stand for.

    An encoding holds the motion from the world to the camera, with a quaternion of any length, and
    the vertical and the horizontal field of view in radians. A field of view of 0 gives an infinite
    focal length. The principal point is at half the width and half the height, with pixel centres
    at integer coordinates, as the official code unprojects depth.

    Args:
        encoding: Of each view.
        size: Height and width of the images, in pixels.
    """
    import roma  # takes long, and `import prob3r` should not

    translation, quaternion, angles = encoding.split((3, 4, 2), -1)
    rotation = roma.unitquat_to_rotmat(quaternion / quaternion.norm(dim=-1, keepdim=True))
    bottom = encoding.new_tensor((0.0, 0, 0, 1)).expand(*encoding.shape[:2], 1, 4)
    world_to_cam = torch.cat((torch.cat((rotation, translation[..., None]), -1), bottom), -2)
    pose = invert_rigid(world_to_cam.flatten(0, 1)).unflatten(0, encoding.shape[:2])
    # Vertical, then horizontal, as the size.
    focal = angles.new_tensor(size) / 2 / (angles / 2).tan()
    height, width = size
    zero, one = torch.zeros_like(focal[..., 0]), torch.ones_like(focal[..., 0])
    rows = (
        (focal[..., 1], zero, one * width / 2),
        (zero, focal[..., 0], one * height / 2),
        (zero, zero, one),
    )
    return Cameras(pose, torch.stack([torch.stack(row, -1) for row in rows], -2))


def encoding_of(cameras: Cameras, size: tuple[int, int]) -> Float[Tensor, "b v 9"]:
    """Return the encodings of cameras; quaternions have length 1 and a real part of 0 or more.

    Args:
        cameras: With intrinsics.
        size: Height and width of the images, in pixels.
    """
    import roma  # takes long, and `import prob3r` should not

    assert cameras.intrinsics is not None
    poses = cameras.cam_to_world
    world_to_cam = invert_rigid(poses.flatten(0, 1)).unflatten(0, poses.shape[:2])
    quaternion = roma.rotmat_to_unitquat(world_to_cam[..., :3, :3].contiguous())
    quaternion = quaternion.where(quaternion[..., 3:] >= 0, -quaternion)
    focal = torch.diagonal(cameras.intrinsics, dim1=-2, dim2=-1)[..., :2].flip(-1)
    angles = 2 * (focal.new_tensor(size) / 2 / focal).atan()
    return torch.cat((world_to_cam[..., :3, 3], quaternion, angles), -1)


class CameraHead(nn.Module):
    """Reads the cameras of all views off their camera tokens, and refines them a few times.

    Every iteration starts from the same tokens, shifted and scaled by the cameras so far
    (`modulation`), and runs the same blocks, in which the views see each other.

    Args:
        width: Of the tokens.
        depth: Blocks in an iteration.
        heads: Of every attention.
        iterations: How often the cameras are refined.
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
            views: How many views there are.
            read: Gives the camera token of a view, from 0.
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
