"""Pairs of cameras as in handheld photographs: rolled, tilted, moved, at many distances."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.rooms.cameras import CANDIDATES, RoomCameras, choose, look_at
from prob3r.rooms.draws import Draws
from prob3r.rooms.scene import Scene

FOV = (15.0, 85.0)  # degrees, across the width of the image
LARGEST = 100.0  # degrees; the largest angle of an orbit
OVERLAP = 0.3  # share of view 2 that view 1 should see
MARGIN = 0.2  # metres between a camera and a wall or an object
# Upper ends of the intervals of [0, 1] that select each motion; the rest selects a free motion.
ORBIT, PAN, STEP, WALK = 0.4, 0.55, 0.7, 0.8


def draw_handheld(draws: Draws, scene: Scene) -> RoomCameras:
    """Choose the best of several candidate pairs of handheld cameras.

    From camera 1 to camera 2, the camera orbits the point of interest, pans in place, steps aside,
    moves forward or back, or moves freely. The kind of motion and its size are drawn once for all
    candidates, so the choice among the candidates does not favour small motions.

    Args:
        draws: The random numbers.
        scene: The scenes.
    """
    c = CANDIDATES
    slope = _draw_lenses(draws)
    motion = draws.between(0.0, 1.0)[:, None, None]
    angle = draws.between(-1.0, 1.0, 1) * math.radians(LARGEST)
    amount = draws.between(-1.0, 1.0, 1)[..., None]

    azimuth = draws.between(0.0, 2 * math.pi, c)
    distance = draws.between(0.15, 1.0, c) * scene.extent.mean(dim=1)[:, None]
    level = draws.between(0.4, 2.2, c)
    target = scene.interest[:, None] + draws.between(-0.75, 0.75, c, 3)
    eye = _around(scene.interest, azimuth, distance, level)
    eye = _inside(scene, eye)
    towards = target - eye
    aside = torch.stack([towards[..., 1], -towards[..., 0], torch.zeros_like(level)], dim=-1)
    aside = torch.nn.functional.normalize(aside, dim=-1)

    orbiting = _around(
        scene.interest,
        azimuth + angle,
        distance * draws.between(0.7, 1.3, c),
        level + draws.between(-0.4, 0.4, c),
    )
    # After the largest pan, about a third of the image is still in common.
    pan = (angle / math.radians(LARGEST)) * 1.3 * slope[:, :1].atan()
    shake = draws.between(-0.1, 0.1, c, 3)
    parallel = draws.between(0.0, 1.0, c, 1)
    step = 1.5 * amount * aside
    free = draws.between(-1.0, 1.0, c, 3) * eye.new_tensor([1.0, 1.0, 0.4])
    glance = draws.between(-0.25, 0.25, c, 3)
    aside = draws.between(-0.75, 0.75, c, 3)

    eyes = [orbiting, eye + shake, eye + step, eye + 0.6 * amount * towards, eye + free]
    turned = eyes[1] + _turned(towards, pan)
    targets = [target, turned, target + parallel * step, target, target + aside]
    ends = (ORBIT, PAN, STEP, WALK)
    eye2, target2 = eyes[-1], targets[-1]
    for end, new_eye, new_target in reversed(list(zip(ends, eyes, targets, strict=False))):
        eye2 = torch.where(motion < end, new_eye, eye2)
        target2 = torch.where(motion < end, new_target, target2)
    eye2 = _inside(scene, eye2)

    eyes_of_both = torch.stack([eye, eye2], dim=2)
    targets_of_both = torch.stack([target, target2 + glance], dim=2)
    poses = look_at(eyes_of_both, targets_of_both, _draw_rolls(draws))
    return RoomCameras(slope, choose(scene, slope, poses, OVERLAP, MARGIN))


def _draw_lenses(draws: Draws) -> Float[Tensor, "b 2"]:
    """Draw half the widths of the images at depth 1; in five of six pairs both are equal."""
    fov, other = draws.between(*FOV, 2).unbind(1)
    other = torch.where(draws.chance(1 / 6), other, fov)
    return (torch.stack([fov, other], dim=1) * (math.pi / 360)).tan()


def _draw_rolls(draws: Draws) -> Float[Tensor, "b c 2"]:
    """Draw rotations about the optical axis in radians: small ones, and some by 90 degrees more.

    The small ones are up to 30 degrees in view 1 and up to 41 degrees in view 2.
    """
    c = CANDIDATES
    first = draws.between(-1.0, 1.0, c) * draws.between(0.0, math.radians(30), c)
    second = 0.7 * first + draws.between(-1.0, 1.0, c) * draws.between(0.0, math.radians(20), c)
    quarter = torch.where(draws.chance(0.5, 1), math.pi / 2, -math.pi / 2)
    both, alone = draws.chance(0.12, 1), draws.chance(0.03, 1)
    first = first + quarter * both
    second = second + quarter * (both ^ alone)
    return torch.stack([first, second], dim=-1)


def _around(
    centre: Float[Tensor, "b 3"],
    azimuth: Float[Tensor, "b c"],
    distance: Float[Tensor, "b c"],
    level: Float[Tensor, "b c"],
) -> Float[Tensor, "b c 3"]:
    """Return places around a point, at given azimuths, distances and heights above the floor."""
    x = centre[:, None, 0] + distance * azimuth.cos()
    y = centre[:, None, 1] + distance * azimuth.sin()
    return torch.stack([x, y, level], dim=-1)


def _inside(scene: Scene, place: Float[Tensor, "b c 3"]) -> Float[Tensor, "b c 3"]:
    """Return the nearest places that keep the margin to the walls, the floor and the ceiling."""
    limit = scene.room[:, None] - MARGIN
    low = torch.cat([-limit[..., :2], torch.full_like(limit[..., 2:], MARGIN)], dim=-1)
    high = torch.cat([limit[..., :2], 2 * scene.room[:, None, 2:] - MARGIN], dim=-1)
    return place.clamp(low, high)


def _turned(vector: Float[Tensor, "b c 3"], angle: Float[Tensor, "b 1"]) -> Float[Tensor, "b c 3"]:
    """Rotate vectors about the vertical by an angle in radians."""
    x, y, z = vector.unbind(-1)
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * x - s * y, s * x + c * y, z], dim=-1)
