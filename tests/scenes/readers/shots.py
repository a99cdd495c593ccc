"""Views of a procedural room along a path between its two cameras, to write data sets from."""

import functools
from dataclasses import dataclass, replace

import numpy as np
import roma
import torch
from torch import Tensor

from prob3r.rooms import Rooms
from prob3r.rooms.cameras import intrinsics_for
from prob3r.rooms.render import render
from prob3r.scenes.framing import Framing

ROOM = 2  # indoors, so that every pixel has a depth; 35 degrees between its cameras
SIZE = (48, 64)
FRAMING = Framing(64, "long", 16)  # keeps images of that size as they are
COUNT = 5
UNKNOWN = (slice(3, 9), slice(5, 12))  # rows and columns whose depth is taken away


@dataclass(frozen=True)
class Shot:
    """One image with its truth, in prob3r's conventions."""

    image: np.ndarray  # h w 3, uint8
    depth: np.ndarray  # h w, metres, 0 where unknown
    intrinsics: np.ndarray  # 3 3
    cam_to_world: np.ndarray  # 4 4

    def scaled(self, unit: float) -> "Shot":
        """The same in another unit of length."""
        pose = self.cam_to_world.copy()
        pose[:3, 3] *= unit
        return replace(self, depth=self.depth * unit, cam_to_world=pose)


@functools.cache
def shots(intrinsics: tuple[float, float, float, float] | None = None) -> tuple[Shot, ...]:
    """Render the path; fx, fy, cx, cy are those of the room's camera 1 unless given."""
    rooms = Rooms("test", size=SIZE, compile=False)
    scene, cameras = rooms._draw([ROOM])
    if intrinsics is None:
        k = intrinsics_for(cameras.slope, SIZE)[0, 0].float()
        k[0, 2] += 1.25  # off centre, so that a swap of the axes shows
        k[1, 2] -= 0.75
    else:
        fx, fy, cx, cy = intrinsics
        k = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    poses = _path(cameras.cam_to_world[0])
    seen = render(scene.single(), k.expand(1, COUNT, 3, 3), poses[None].float(), SIZE, samples=2)
    images = (127.5 * (seen.image[0] + 1)).round().reshape(COUNT, 3, *SIZE)
    depth = seen.depth[0].reshape(COUNT, *SIZE).double()
    depth[(slice(None), *UNKNOWN)] = 0
    return tuple(
        Shot(image, depth[i].numpy(), k.double().numpy(), poses[i].numpy())
        for i, image in enumerate(images.to(torch.uint8).permute(0, 2, 3, 1).numpy())
    )


def _path(ends: Tensor) -> Tensor:
    steps = torch.linspace(0, 1, COUNT, dtype=ends.dtype)
    poses = torch.eye(4, dtype=ends.dtype).repeat(COUNT, 1, 1)
    first, last = ends[:1, :3, :3], ends[1:, :3, :3]
    poses[:, :3, :3] = roma.rotmat_slerp(first, last, steps)[:, 0]
    poses[:, :3, 3] = torch.lerp(ends[0, :3, 3], ends[1, :3, 3], steps[:, None])
    return poses
