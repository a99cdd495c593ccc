"""Two or more upright cameras that orbit a point of interest."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.rooms.draws import Draws
from prob3r.rooms.rays import Vector, blocked, components, first_surface, is_sky
from prob3r.rooms.scene import WALLS, Scene

CANDIDATES = 8  # candidates for each choice of cameras
PROBE = 6  # rays along each side of a candidate's image, to score it
FOV = (40.0, 80.0)  # degrees, across the width of the image
MARGIN = 0.3  # metres between a camera and a wall or an object


class RoomCameras(NamedTuple):
    """The cameras of each scene.

    Attributes:
        slope: Half the width of the image at depth 1.
        cam_to_world: OpenCV poses; lengths in metres.
    """

    slope: Float[Tensor, "b v"]
    cam_to_world: Float[Tensor, "b v 4 4"]


def intrinsics_for(slope: Float[Tensor, "b v"], size: tuple[int, int]) -> Float[Tensor, "b v 3 3"]:
    """Pinhole matrices, in pixels, for square pixels and a principal point in the image's centre.

    Args:
        slope: Half the width of the image at depth 1.
        size: Height and width of the images in pixels.
    """
    height, width = size
    matrix = torch.zeros(*slope.shape, 3, 3, dtype=slope.dtype, device=slope.device)
    matrix[..., 0, 0] = matrix[..., 1, 1] = 0.5 * width / slope
    matrix[..., 0, 2] = 0.5 * (width - 1)
    matrix[..., 1, 2] = 0.5 * (height - 1)
    matrix[..., 2, 2] = 1
    return matrix


def look_at(
    eye: Float[Tensor, "*n 3"], target: Float[Tensor, "*n 3"], roll: Float[Tensor, "*n"]
) -> Float[Tensor, "*n 4 4"]:
    """Pose `cam_to_world` of an OpenCV camera that looks from one point at another.

    Args:
        eye: Position of the camera in the world, whose z axis points up.
        target: The point in the world that the camera looks at, not straight above or below it.
        roll: Rotation about the optical axis, in radians.
    """
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    up = forward.new_tensor([0.0, 0.0, 1.0]).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    down = torch.linalg.cross(forward, right)
    c, s = roll.cos()[..., None], roll.sin()[..., None]
    pose = torch.zeros(*eye.shape[:-1], 4, 4, dtype=eye.dtype, device=eye.device)
    pose[..., :3, 0] = c * right + s * down
    pose[..., :3, 1] = c * down - s * right
    pose[..., :3, 2] = forward
    pose[..., :3, 3] = eye
    pose[..., 3, 3] = 1
    return pose


def draw_cameras(draws: Draws, scene: Scene) -> RoomCameras:
    """Choose the best of several candidate pairs of cameras.

    The orbit's angle between the two cameras is drawn once for all candidates, so the choice among
    the candidates does not favour small angles. The cameras do not depend on the size of the
    images.

    Args:
        draws: The random numbers.
        scene: The scenes.
    """
    c = CANDIDATES
    fov = draws.between(*FOV, 1) + draws.between(-2.0, 2.0, 2)
    slope = (0.5 * fov.clamp(*FOV) * (math.pi / 180)).tan()

    orbit = draws.between(0.0, 1.4) * torch.where(draws.chance(0.5), 1.0, -1.0)
    azimuth = draws.between(0.0, 2 * math.pi, c)
    azimuth = torch.stack([azimuth, azimuth + orbit[:, None]], dim=-1)
    azimuth = azimuth + draws.between(-0.05, 0.05, c, 2)
    radius = draws.between(0.5, 0.85, c, 1) * scene.extent.mean(dim=1)[:, None, None]
    radius = radius * draws.between(0.85, 1.15, c, 2)
    level = draws.between(1.0, 2.0, c, 1) + draws.between(-0.25, 0.25, c, 2)
    away = torch.stack([azimuth.cos(), azimuth.sin()], dim=-1) * radius[..., None]
    place = scene.interest[:, None, None, :2] + away
    # Keep the cameras inside the walls. Outdoors the limit is far away.
    limit = scene.room[:, None, None, :2] - MARGIN
    place = place.clamp(-limit, limit)
    eye = torch.cat([place, level[..., None]], dim=-1)
    target = scene.interest[:, None, None] + draws.between(-0.75, 0.75, c, 2, 3)
    roll = draws.between(-1.0, 1.0, c, 2) * draws.between(0.0, 0.14, c, 2)
    poses = look_at(eye, target, roll)

    return RoomCameras(slope, choose(scene, slope, poses))


def add_camera(draws: Draws, scene: Scene, cameras: RoomCameras) -> RoomCameras:
    """Add one camera to each scene, the best of several candidates.

    Its orbit's angle to camera 1 is drawn as for the second camera of a pair. The score of a
    candidate depends on how much of its view camera 1 sees, so that the added view overlaps with
    view 1.

    Args:
        draws: The random numbers.
        scene: The scenes.
        cameras: The cameras that the scenes have already.

    Returns:
        All cameras, the added one last.
    """
    c = CANDIDATES
    fov = 2 * cameras.slope[:, 0].atan() * (180 / math.pi) + draws.between(-2.0, 2.0)
    slope = (0.5 * fov.clamp(*FOV) * (math.pi / 180)).tan()

    first = cameras.cam_to_world[:, 0]
    out = first[:, :2, 3] - scene.interest[:, :2]
    orbit = draws.between(0.0, 1.4) * torch.where(draws.chance(0.5), 1.0, -1.0)
    azimuth = torch.atan2(out[:, 1], out[:, 0]) + orbit
    azimuth = azimuth[:, None] + draws.between(-0.2, 0.2, c)
    radius = draws.between(0.5, 0.85, c) * scene.extent.mean(dim=1)[:, None]
    away = torch.stack([azimuth.cos(), azimuth.sin()], dim=-1) * radius[..., None]
    limit = scene.room[:, None, :2] - MARGIN
    place = (scene.interest[:, None, :2] + away).clamp(-limit, limit)
    level = draws.between(0.75, 2.25, c)
    eye = torch.cat([place, level[..., None]], dim=-1)
    target = scene.interest[:, None] + draws.between(-0.75, 0.75, c, 3)
    roll = draws.between(-1.0, 1.0, c) * draws.between(0.0, 0.14, c)
    poses = look_at(eye, target, roll)

    slopes = torch.stack([cameras.slope[:, 0], slope], dim=1)
    both = torch.stack([first[:, None].expand_as(poses), poses], dim=2)
    chosen = choose(scene, slopes, both)[:, 1]
    return RoomCameras(
        torch.cat([cameras.slope, slope[:, None]], dim=1),
        torch.cat([cameras.cam_to_world, chosen[:, None]], dim=1),
    )


def clearance(scene: Scene, eye: Float[Tensor, "b g 3"]) -> Float[Tensor, "b g"]:
    """Distance in metres from each point to the nearest bounding box of an object; 0 inside one."""
    offset = eye[:, :, None] - scene.centre[:, None]
    local = (scene.linear[:, None] @ offset[..., None])[..., 0]
    excess = (local.abs() - 1) * scene.half[:, None]
    nearest: Tensor = excess.clamp(min=0).norm(dim=-1).amin(dim=-1)
    return nearest


def _grid(slope: Float[Tensor, "b 2"], poses: Float[Tensor, "b c 2 4 4"], view: int) -> Vector:
    """World directions through a grid of points on the square image of one view."""
    steps = (torch.arange(PROBE, dtype=slope.dtype, device=slope.device) + 0.5) * (2 / PROBE) - 1
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    right = (x.reshape(-1) * slope[:, view, None])[:, None]
    down = (y.reshape(-1) * slope[:, view, None])[:, None]
    r = poses[:, :, view, :3, :3, None]
    a, b, c = (r[:, :, i, 0] * right + r[:, :, i, 1] * down + r[:, :, i, 2] for i in range(3))
    return a, b, c


def choose(
    scene: Scene,
    slope: Float[Tensor, "b 2"],
    poses: Float[Tensor, "b c 2 4 4"],
    overlap: float = 0.12,
    margin: float = MARGIN,
) -> Float[Tensor, "b 2 4 4"]:
    """Return the best of each scene's candidate pairs of poses.

    Args:
        scene: The scenes.
        slope: Half the width of the image at depth 1.
        poses: The candidates, `cam_to_world`.
        overlap: Share of view 2 that view 1 should see. A larger share does not score higher.
        margin: Distance in metres from a camera to the nearest object that should be kept.
    """
    best = _score(scene, slope, poses, overlap, margin).argmax(dim=1)
    return poses[torch.arange(len(poses), device=best.device), best]


def _score(
    scene: Scene,
    slope: Float[Tensor, "b 2"],
    poses: Float[Tensor, "b c 2 4 4"],
    enough: float,
    margin: float,
) -> Float[Tensor, "b c"]:
    """Return a score for each candidate; the largest is the best.

    The score rises with the overlap, up to `enough`, and with objects and look-alikes that both
    cameras see. It falls with surfaces that are too close to a camera.
    """
    eye = poses[..., :3, 3]
    ray = _grid(slope, poses, 1)
    distance, surface = first_surface(scene, eye[:, :, 1], ray)
    point = torch.stack(ray, dim=-1) * distance[..., None] + eye[:, :, 1, None]

    towards = point - eye[:, :, 0, None]
    inside = towards @ poses[:, :, 0, :3, :3]
    bound = slope[:, 0, None, None] * inside[..., 2]
    framed = (inside[..., :2].abs().amax(dim=-1) < bound) & ~is_sky(scene, surface)
    x, y, z = towards.unbind(-1)
    seen = framed & ~blocked(scene, components(eye[:, :, 0]), (x, y, z), 1 - 1e-3)

    overlap = seen.to(point).mean(dim=-1)
    shared = (seen & (surface >= WALLS)).to(point).mean(dim=-1)
    free = clearance(scene, eye.flatten(1, 2)).reshape(eye.shape[:3]).amin(dim=-1)
    crowded = (distance < 2 * margin).to(point).mean(dim=-1)
    collision = (free < margin).to(point)
    slots = WALLS + torch.arange(scene.centre.shape[1], device=surface.device)
    shown = (seen[..., None] & (surface[..., None] == slots)).any(dim=2)
    alike = (shown & scene.alike[:, None]).sum(dim=-1).clamp(max=2).to(point)
    return (
        overlap.clamp(max=enough) + shared.clamp(max=0.1) + 0.1 * alike - crowded - 10 * collision
    )
