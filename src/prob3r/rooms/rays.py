"""Ray casting: the first surface along a ray, and whether a line of sight is free.

The vectors of rays are three tensors of shape (b, g, n), for x, y and z: b scenes, g origins in
each, n rays from each origin. The loop over the object slots is unrolled, so that a compiler can
keep a ray in registers while it is intersected with all objects.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from prob3r.rooms.scene import BOXES, CYLINDERS, ELLIPSOIDS, FLOOR, OBJECTS, WALLS, Scene

FAR = 1e8  # distance of a ray that hits nothing

Vector = tuple[Tensor, Tensor, Tensor]


class Hit(NamedTuple):
    """The first surface along each ray.

    Attributes:
        distance: Distance along the ray, in multiples of the length of its direction.
        surface: Number of the surface: 0 to 5 for the room, 6 plus the slot for an object.
        local: The point that was hit, in the canonical frame of the object or room.
    """

    distance: Float[Tensor, "b g n"]
    surface: Int32[Tensor, "b g n"]
    local: Vector


def _slab(origin: Tensor, direction: Tensor) -> tuple[Tensor, ...]:
    """Distances at which a line enters and leaves the slab between -1 and 1 of one coordinate."""
    inverse = 1 / direction  # infinite for a line parallel to the slab, and so are the distances
    low, high = (-1 - origin) * inverse, (1 - origin) * inverse
    return torch.minimum(low, high), torch.maximum(low, high)


def _disc(origins: tuple[Tensor, ...], directions: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Distances at which a line enters and leaves the unit ball of the given coordinates.

    They are computed from the point of closest approach, which is accurate for distant origins.
    """
    speed = _dot(directions, directions).clamp(min=1e-30)  # 0 along a cylinder's axis
    middle = -_dot(origins, directions) / speed
    nearest = tuple(o + middle * d for o, d in zip(origins, directions, strict=True))
    gap = 1 - _dot(nearest, nearest)
    half_length = (gap.clamp(min=0) / speed).sqrt()
    half_length = torch.where(gap > 0, half_length, -FAR)
    return middle - half_length, middle + half_length


def _dot(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
    total = a[0] * b[0]
    for p, q in zip(a[1:], b[1:], strict=True):
        total = total + p * q
    return total


def intersect_box(origin: Vector, direction: Vector) -> Float[Tensor, "b g n"]:
    """Distance from outside to the box [-1, 1]^3; ``FAR`` without a hit."""
    spans = [_slab(o, d) for o, d in zip(origin, direction, strict=True)]
    enter = torch.maximum(torch.maximum(spans[0][0], spans[1][0]), spans[2][0])
    leave = torch.minimum(torch.minimum(spans[0][1], spans[1][1]), spans[2][1])
    return torch.where((enter < leave) & (enter > 0), enter, FAR)


def intersect_ball(origin: Vector, direction: Vector) -> Float[Tensor, "b g n"]:
    """Distance from outside to the unit ball; ``FAR`` without a hit."""
    enter, leave = _disc(origin, direction)
    return torch.where((enter < leave) & (enter > 0), enter, FAR)


def intersect_cylinder(origin: Vector, direction: Vector) -> Float[Tensor, "b g n"]:
    """Distance from outside to the cylinder of radius 1 and -1 < z < 1; ``FAR`` without a hit."""
    round_in, round_out = _disc(origin[:2], direction[:2])
    flat_in, flat_out = _slab(origin[2], direction[2])
    enter, leave = torch.maximum(round_in, flat_in), torch.minimum(round_out, flat_out)
    return torch.where((enter < leave) & (enter > 0), enter, FAR)


def intersect_room(origin: Vector, direction: Vector) -> Float[Tensor, "b g n"]:
    """Distance from inside to the sides of the box [-1, 1]^3."""
    leave = [_slab(o, d)[1] for o, d in zip(origin, direction, strict=True)]
    return torch.minimum(torch.minimum(leave[0], leave[1]), leave[2])


def components(vectors: Float[Tensor, "b g 3"]) -> Vector:
    """Components of one vector for each origin, each of shape (b, g, 1) to broadcast over rays."""
    x, y, z = vectors[..., None].unbind(2)
    return x, y, z


def _turn(scene: Scene, slot: int, vector: Vector) -> Vector:
    """Map vectors from the world to the canonical frame of one object."""
    m = scene.linear[:, slot, :, :, None, None]
    x, y, z = (
        m[:, i, 0] * vector[0] + m[:, i, 1] * vector[1] + m[:, i, 2] * vector[2] for i in range(3)
    )
    return x, y, z


def _to_object(scene: Scene, slot: int, point: Vector) -> Vector:
    """Map points from the world to the canonical frame of one object."""
    centre = scene.centre[:, slot, :, None, None]
    x, y, z = (p - centre[:, i] for i, p in enumerate(point))
    return _turn(scene, slot, (x, y, z))


def _room_rays(
    scene: Scene, origin: Float[Tensor, "b g 3"], direction: Vector
) -> tuple[Vector, Vector]:
    """Map rays from the world to the canonical frame of the room."""
    start = components(origin / scene.room[:, None])
    x, y, z = (1 / scene.room)[:, :, None, None].unbind(1)
    start = (start[0], start[1], start[2] - 1)
    return start, (direction[0] * x, direction[1] * y, direction[2] * z)


def points_at(start: Vector, direction: Vector, distance: Float[Tensor, "b g n"]) -> Vector:
    """Points at these distances along rays."""
    x, y, z = (o + distance * d for o, d in zip(start, direction, strict=True))
    return x, y, z


_INTERSECT = dict.fromkeys(BOXES, intersect_box)
_INTERSECT |= dict.fromkeys(ELLIPSOIDS, intersect_ball)
_INTERSECT |= dict.fromkeys(CYLINDERS, intersect_cylinder)


def _meet(
    scene: Scene, slot: int, start: Vector, direction: Vector
) -> tuple[Vector, Vector, Float[Tensor, "b g n"]]:
    """Map rays to the canonical frame of one object, and return their distances to it, too."""
    start, heading = _to_object(scene, slot, start), _turn(scene, slot, direction)
    return start, heading, _INTERSECT[slot % OBJECTS](start, heading)


def _meet_room(scene: Scene, origin: Float[Tensor, "b g 3"], direction: Vector) -> Hit:
    start, heading = _room_rays(scene, origin, direction)
    distance = intersect_room(start, heading)
    x, y, z = points_at(start, heading, distance)
    side = torch.where(x.abs() > y.abs(), 0 + (x > 0).int(), 2 + (y > 0).int())
    upright = z.abs() < torch.maximum(x.abs(), y.abs())
    return Hit(distance, torch.where(upright, side, 4 + (z > 0).int()), (x, y, z))


def first_hit(scene: Scene, origin: Float[Tensor, "b g 3"], direction: Vector) -> Hit:
    """Cast rays and return what they hit first.

    Args:
        scene: The scenes.
        origin: Origins in the world, inside the room and outside all objects.
        direction: Directions in the world, of any length.
    """
    eye = components(origin)
    distance, surface, local = _meet_room(scene, origin, direction)
    for slot in range(scene.centre.shape[1]):
        start, heading, new = _meet(scene, slot, eye, direction)
        nearer = new < distance
        distance = torch.minimum(distance, new)
        surface = torch.where(nearer, WALLS + slot, surface)
        point = points_at(start, heading, new)
        x, y, z = (torch.where(nearer, p, q) for p, q in zip(point, local, strict=True))
        local = (x, y, z)
    return Hit(distance, surface, local)


def first_surface(
    scene: Scene, origin: Float[Tensor, "b g 3"], direction: Vector
) -> tuple[Float[Tensor, "b g n"], Int32[Tensor, "b g n"]]:
    """Return distance and surface of `first_hit`; faster, because no point is computed."""
    eye = components(origin)
    distance, surface, _ = _meet_room(scene, origin, direction)
    for slot in range(scene.centre.shape[1]):
        _, _, new = _meet(scene, slot, eye, direction)
        surface = torch.where(new < distance, WALLS + slot, surface)
        distance = torch.minimum(distance, new)
    return distance, surface


def blocked(
    scene: Scene, point: Vector, towards: Vector, share: float = 1.0
) -> Bool[Tensor, "b g n"]:
    """Return whether an object lies between each point and the place ``point + towards``.

    An object never blocks a ray that starts on its own surface and goes outwards, because all
    objects are convex.

    Args:
        scene: The scenes.
        point: Start points of the rays, in the world.
        towards: Vectors from the start points to the places, in the world.
        share: Share of the way, from the start, that has to be free.
    """
    met = torch.zeros_like(towards[0], dtype=torch.bool)
    for slot in range(scene.centre.shape[1]):
        _, _, distance = _meet(scene, slot, point, towards)
        met = met | (distance < share)
    return met


def is_sky(scene: Scene, surface: Int32[Tensor, "b g n"]) -> Bool[Tensor, "b g n"]:
    """Return whether rays that hit these surfaces see the sky: outdoors, walls and ceiling do."""
    return scene.outdoors[:, None, None] & (surface < WALLS) & (surface != FLOOR)
