"""A recording in the 7-Scenes layout: one room, and a camera that looks all around on its way."""

from pathlib import Path

import numpy as np
import roma
import torch
from PIL import Image

from prob3r.rooms import Rooms
from prob3r.rooms.render import render
from tests.scenes.readers.shots import ROOM
from tests.scenes.readers.writers import kinect_at

AT_ONCE = 8  # frames rendered together


def write_sequence(
    root: Path, frames: int, size: tuple[int, int] = (48, 64), room: int = ROOM, number: int = 1
) -> Path:
    """Write one sequence of a scene, and return the scene's folder.

    The camera goes from the room's camera 1 to its camera 2, and turns once around.
    """
    folder = root / f"seq-{number:02d}"
    folder.mkdir(parents=True)
    rooms = Rooms("test", size=size, compile=False)
    scene, cameras = rooms._draw([room])
    k = kinect_at(585, 585, 320, 240, size)
    poses = path(cameras.cam_to_world[0], frames)
    for first in range(0, frames, AT_ONCE):
        some = poses[first : first + AT_ONCE]
        matrices = k.expand(1, len(some), 3, 3).float()
        seen = render(scene.single(), matrices, some[None].float(), size)
        images = (127.5 * (seen.image[0] + 1)).round().to(torch.uint8)
        images = images.reshape(len(some), 3, *size).permute(0, 2, 3, 1)
        depths = (1000 * seen.depth[0].reshape(len(some), *size)).round()
        for i, pose in enumerate(some):
            stem = folder / f"frame-{first + i:06d}"
            Image.fromarray(images[i].numpy()).save(f"{stem}.color.png")
            steps = depths[i].clamp(max=65535).numpy().astype(np.uint16)
            Image.fromarray(steps).save(f"{stem}.depth.png")
            rows = [" ".join(f"{x:.7e}" for x in row) for row in pose.tolist()]
            Path(f"{stem}.pose.txt").write_text("\n".join(rows) + "\n")
    return root


def path(ends: torch.Tensor, frames: int) -> torch.Tensor:
    """Poses on the way between two cameras, turning once about the camera's vertical axis."""
    steps = torch.linspace(0, 1, frames, dtype=ends.dtype)
    turns = torch.zeros(frames, 3, dtype=ends.dtype)
    turns[:, 1] = 2 * torch.pi * torch.arange(frames) / frames
    poses = torch.eye(4, dtype=ends.dtype).repeat(frames, 1, 1)
    poses[:, :3, :3] = ends[0, :3, :3] @ roma.rotvec_to_rotmat(turns)
    poses[:, :3, 3] = torch.lerp(ends[0, :3, 3], ends[1, :3, 3], steps[:, None])
    return poses
