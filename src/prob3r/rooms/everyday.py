"""Everyday contents of a room: a table, small things on it, and a projected photograph."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.rooms.cameras import RoomCameras, look_at
from prob3r.rooms.draws import Draws
from prob3r.rooms.scene import CYLINDERS, ELLIPSOIDS, OBJECTS, PARKED, Scene
from prob3r.rooms.textures import PROJECTED, SPAN, draw_textures, soften_textures

TABLE = 0  # the slot of the box that may become a table
SUPPORTS = (TABLE, 1, 6)  # slots of furniture that small things may stand on
TABLES = 0.5  # share of the scenes with a table
DESKS = 0.5  # share of the scenes with all small things on one piece of furniture
PROJECTIONS = 0.4  # share of the scenes with a projected photograph
COVERED = 0.85  # share of the surfaces that the photograph covers in such a scene


def add_clutter(draws: Draws, scene: Scene, photographs: int) -> Scene:
    """Add a table to some scenes, and two to eight small things on furniture and on the floor.

    The things have slots of their own after those of the furniture, with the same shapes in the
    same order. If there is a table, the cameras look at it.

    Args:
        draws: The random numbers.
        scene: Furnished rooms with `OBJECTS` objects.
        photographs: Number of photographs that may be textures of the things.
    """
    scene = _add_table(draws, scene)
    supports = torch.tensor(SUPPORTS, device=scene.half.device)
    count = OBJECTS
    size = _draw_sizes(draws)
    own = draws.between(0.0, len(SUPPORTS) + 1, count).long()
    common = draws.between(0.0, len(SUPPORTS), 1).long()
    common = torch.where(_has_table(scene), 0, common)
    choice = torch.where(draws.chance(DESKS, 1), common, own)  # the last choice is the floor
    number = draws.between(2.0, OBJECTS + 1).floor()
    present = draws.order(count) < number[:, None]

    slot = supports[choice.clamp(max=len(SUPPORTS) - 1)]
    there = scene.prototype.take_along_dim(slot, dim=1) >= 0
    standing = (choice < len(SUPPORTS)) & there
    base = scene.centre.take_along_dim(slot[..., None], dim=1)
    reach = scene.half.take_along_dim(slot[..., None], dim=1)
    axes = scene.linear.take_along_dim(slot[..., None, None], dim=1) * reach[..., None]
    place = draws.between(-1.0, 1.0, count, 2)
    offset = (0.65 * place * reach[..., :2])[..., None, :] @ axes[..., :2, :2]
    on_floor = scene.interest[:, None, :2] + 1.2 * place
    ground = torch.where(standing[..., None], base[..., :2] + offset[..., 0, :], on_floor)
    level = torch.where(standing, base[..., 2] + reach[..., 2], 0.0)
    centre = torch.cat([ground, (level + size[..., 2])[..., None]], dim=-1)
    centre = torch.where(present[..., None], centre, PARKED)

    textures = soften_textures(draws, draw_textures(draws, 0, count, photographs))
    textures[..., 2] *= 3  # finer patterns, to fit the size of the things
    slots = torch.arange(count, device=size.device) + OBJECTS
    return scene._replace(
        linear=torch.cat([scene.linear, _turns(draws, count).mT / size[..., None]], dim=1),
        centre=torch.cat([scene.centre, centre], dim=1),
        half=torch.cat([scene.half, size], dim=1),
        textures=torch.cat([scene.textures, textures], dim=1),
        alike=torch.cat([scene.alike, torch.zeros_like(present)], dim=1),
        prototype=torch.cat([scene.prototype, torch.where(present, slots, -1)], dim=1),
    )


def project_photograph(draws: Draws, scene: Scene, cameras: RoomCameras, photographs: int) -> Scene:
    """Project a photograph onto most surfaces of some scenes, from a place near camera 1.

    An image of such a scene has the statistics of a photograph, but the content of the photograph
    says nothing about the depth. Outside its frame the photograph is continued by its mirror image.

    Args:
        draws: The random numbers.
        scene: The scenes.
        cameras: The cameras of the scenes.
        photographs: Number of photographs; with 0, nothing changes.
    """
    if not photographs:
        return scene
    surfaces = scene.textures.shape[1]
    covered = draws.chance(PROJECTIONS, 1) & draws.chance(COVERED, surfaces)
    number = (draws.between(0.0, 1.0, 1) * photographs).floor()
    eye = cameras.cam_to_world[:, 0, :3, 3] + draws.between(-0.6, 0.6, 3)
    forward = cameras.cam_to_world[:, 0, :3, 2]
    target = cameras.cam_to_world[:, 0, :3, 3] + 2 * forward + draws.between(-0.5, 0.5, 3)
    pose = look_at(eye, target, draws.between(-0.2, 0.2))
    slope = cameras.slope[:, 0] * draws.between(0.7, 1.6)

    rotation = pose[:, :3, :3].mT
    world_to_camera = torch.cat([rotation, -rotation @ pose[:, :3, 3:]], dim=-1)
    scale = 0.5 / slope[:, None]
    depth = world_to_camera[:, 2]
    rows = [
        scale * world_to_camera[:, 0] + 0.5 * depth,
        -scale * world_to_camera[:, 1] + 0.5 * depth,
        depth,
    ]
    fixed = {0: PROJECTED, 2: SPAN, 3: 1.0, 4: 0.0, 5: 0.0, 6: 0.0}
    textures = scene.textures.clone()
    for column, value in fixed.items():
        textures[..., column] = torch.where(covered, value, textures[..., column])
    textures[..., 7] = torch.where(covered, number, textures[..., 7])
    return scene._replace(textures=textures, projector=torch.stack(rows, dim=1))


def _has_table(scene: Scene) -> Bool[Tensor, "b 1"]:
    """Return whether the first box is a table: no other piece of furniture is as wide."""
    return scene.half[:, TABLE, :1] > 0.5


def _add_table(draws: Draws, scene: Scene) -> Scene:
    """Make the first box of some scenes a table at the point of interest, and look at its top."""
    chosen = draws.chance(TABLES, 1) & ~scene.alike[:, TABLE, None]
    width, depth = draws.between(0.51, 0.9, 1), draws.between(0.3, 0.5, 1)
    height = draws.between(0.32, 0.4, 1)
    size = torch.cat([width, depth, height], dim=1)
    middle = torch.cat([scene.interest[:, :2], height], dim=1)
    turn = _turns(draws, 1)[:, 0].mT / size[..., None]
    interest = torch.cat([scene.interest[:, :2], 2 * height + 0.05], dim=1)

    half, centre, linear = scene.half.clone(), scene.centre.clone(), scene.linear.clone()
    prototype = scene.prototype.clone()
    half[:, TABLE] = torch.where(chosen, size, half[:, TABLE])
    centre[:, TABLE] = torch.where(chosen, middle, centre[:, TABLE])
    linear[:, TABLE] = torch.where(chosen[..., None], turn, linear[:, TABLE])
    prototype[:, TABLE] = torch.where(chosen[:, 0], TABLE, prototype[:, TABLE])
    return scene._replace(
        half=half,
        centre=centre,
        linear=linear,
        prototype=prototype,
        interest=torch.where(chosen, interest, scene.interest),
    )


def _draw_sizes(draws: Draws) -> Float[Tensor, "b k 3"]:
    """Draw half sizes of small things, in metres: 4 to 30 centimetres across, some of them flat."""
    half = draws.between(0.02, 0.15, OBJECTS, 3)
    flat = draws.chance(0.3, OBJECTS)
    half[..., 2] = torch.where(flat, 0.15 * half[..., 2], half[..., 2])
    half[:, ELLIPSOIDS] = half[:, ELLIPSOIDS].amax(dim=-1, keepdim=True)
    half[:, CYLINDERS, 1] = half[:, CYLINDERS, 0]
    return half


def _turns(draws: Draws, count: int) -> Float[Tensor, "b k 3 3"]:
    """Draw rotations about the vertical, from object to world."""
    angle = draws.between(0.0, 2 * math.pi, count)
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    rows = [c, -s, zero, s, c, zero, zero, zero, one]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
