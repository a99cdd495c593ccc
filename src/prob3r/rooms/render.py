"""Rendering: cameras, light and colour."""

import functools
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from jaxtyping import Bool, Float, Int32, UInt8
from torch import Tensor

from prob3r.geometry import PixelMatches, patch_of_pixels, pixel_grid, project
from prob3r.rooms.rays import Hit, Vector, blocked, components, first_hit, is_sky, points_at
from prob3r.rooms.scene import CYLINDERS, ELLIPSOIDS, OBJECTS, WALLS, Scene
from prob3r.rooms.textures import COLUMNS, PROJECTED, Texture, paint

P = ParamSpec("P")
T = TypeVar("T")
SAME_POINT = 2e-3  # hits on one ray closer than this share of its length count as one point


class Frame(NamedTuple):
    """Rendered images, with pixels row by row.

    Attributes:
        image: Red, green and blue in [-1, 1].
        depth: z depth in metres; 0 for sky.
        labels: Label of the object, 1 plus its slot; 0 if there is none.
        valid: Whether the depth is known, that is, the pixel does not show the sky.
    """

    image: Float[Tensor, "b g 3 n"]
    depth: Float[Tensor, "b g n"]
    labels: Int32[Tensor, "b g n"]
    valid: Bool[Tensor, "b g n"]


def _surface_table(scene: Scene) -> Float[Tensor, "b c s"]:
    """Texture, linear map and half sizes of surfaces: a row a number, a column a surface."""
    inward = -torch.diag_embed(1 / scene.room)[:, None].expand(-1, WALLS, -1, -1)
    linear = torch.cat([inward, scene.linear], dim=1).flatten(-2)
    half = torch.cat([scene.room[:, None].expand(-1, WALLS, -1), scene.half], dim=1)
    return torch.cat([scene.textures, linear, half], dim=-1).mT.contiguous()


def _local_geometry(
    surface: Int32[Tensor, "b g n"], local: Vector, half: Vector
) -> tuple[Vector, Tensor, Tensor, Tensor]:
    """Normals in the canonical frame, surface coordinates in metres, and numbers of the faces."""
    x, y, z = local
    slot = torch.where(surface >= WALLS, (surface - WALLS) % OBJECTS, 0)
    ball = (slot >= ELLIPSOIDS[0]) & (slot <= ELLIPSOIDS[-1])
    drum = slot >= CYLINDERS[0]
    around = (x * x + y * y).sqrt()
    flat = (z.abs() > torch.where(drum, around, torch.maximum(x.abs(), y.abs()))) & ~ball
    curved = (ball | drum) & ~flat
    facing_x = (x.abs() > y.abs()) & ~flat & ~curved
    facing_y = ~facing_x & ~flat & ~curved
    normal_x = torch.where(curved, x, torch.where(facing_x, x.sign(), 0.0))
    normal_y = torch.where(curved, y, torch.where(facing_y, y.sign(), 0.0))
    normal_z = torch.where(ball, z, torch.where(flat, z.sign(), 0.0))
    u = torch.where(facing_x, y * half[1], x * half[0])
    u = torch.where(curved, torch.atan2(y, x) * half[0], u)
    v = torch.where(flat, y * half[1], z * half[2])
    negative = torch.where(facing_x, x, torch.where(facing_y, y, z)) < 0
    face = 2 * torch.where(facing_x, 1, torch.where(facing_y, 2, 0)) + negative.int()
    face = torch.where(curved, 6, face).int()
    return (normal_x, normal_y, normal_z), u, v, face


def _lambert(scene: Scene, point: Vector, normal: Vector) -> Float[Tensor, "b g n"]:
    """Shading of matt (Lambertian) surfaces: ambient light, and lamps that weaken with distance.

    Only the first lamp casts shadows. This is enough to show where objects touch the ground.
    """
    shade = scene.ambient[:, None, None].expand_as(point[0])
    for lamp in range(scene.lights.shape[1]):
        place = scene.lights[:, lamp, :, None, None].unbind(1)
        x, y, z = (a - p for a, p in zip(place, point, strict=True))
        square = x * x + y * y + z * z
        cosine = (x * normal[0] + y * normal[1] + z * normal[2]) * square.rsqrt()
        falloff = 1 / (1 + square / (scene.half_distance * scene.half_distance)[:, None, None])
        light = scene.power[:, lamp, None, None] * cosine.clamp(min=0) * falloff
        if lamp == 0:
            light = torch.where(blocked(scene, point, (x, y, z)), 0.0, light)
        shade = shade + light
    return shade


def _project(scene: Scene, point: Vector) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of points in the projected photograph (right, up), and its widths per metre."""
    p = scene.projector[..., None, None]
    x, y, z = (
        p[:, i, 0] * point[0] + p[:, i, 1] * point[1] + p[:, i, 2] * point[2] + p[:, i, 3]
        for i in range(3)
    )
    inverse = 1 / z.abs().clamp(min=0.05)
    right = (scene.projector[:, 0, :3] - 0.5 * scene.projector[:, 2, :3]).norm(dim=-1)
    return x * inverse, y * inverse, right[:, None, None] * inverse


def _sky(scene: Scene, direction: Vector) -> Vector:
    """Colour of the sky in each direction, in [0, 1]."""
    x, y, z = direction
    rise = (z * (x * x + y * y + z * z).rsqrt()).clamp(0, 1).sqrt()
    low, high = scene.sky[:, 0, :, None, None], scene.sky[:, 1, :, None, None]
    r, g, b = (torch.lerp(low[:, c], high[:, c], rise) for c in range(3))
    return r, g, b


def shade(
    scene: Scene,
    origin: Float[Tensor, "b g 3"],
    direction: Vector,
    hit: Hit,
    pixel: Float[Tensor, "b g"],
    atlas: UInt8[Tensor, "p 3 t"] | None,
) -> Float[Tensor, "b g 3 n"]:
    """Red, green and blue in [-1, 1] of the points that rays hit.

    Args:
        scene: The scenes.
        origin: Origins of the rays in the world.
        direction: World directions whose component along the optical axis is 1.
        hit: What the rays hit.
        pixel: Size of a pixel at unit depth (1 / focal length in pixels).
        atlas: Photographs for the surfaces that have a photograph as texture.
    """
    b, g, n = hit.distance.shape
    index = hit.surface.long().reshape(b, g * n)
    columns = [c.gather(1, index).reshape(b, g, n) for c in _surface_table(scene).unbind(1)]
    texture = Texture.from_columns(columns[:COLUMNS])
    m = columns[COLUMNS : COLUMNS + 9]
    half = (columns[COLUMNS + 9], columns[COLUMNS + 10], columns[COLUMNS + 11])
    (nx, ny, nz), u, v, face = _local_geometry(hit.surface, hit.local, half)
    x, y, z = (m[j] * nx + m[3 + j] * ny + m[6 + j] * nz for j in range(3))
    length = (x * x + y * y + z * z).rsqrt()
    normal = (x * length, y * length, z * length)
    point = points_at(components(origin), direction, hit.distance)

    dx, dy, dz = direction
    speed = (dx * dx + dy * dy + dz * dz).sqrt()
    cosine = (dx * normal[0] + dy * normal[1] + dz * normal[2]).abs() / speed
    # A slanted surface stretches the pixel in one direction only. The footprint is the geometric
    # mean of the sizes in both directions.
    footprint = hit.distance * pixel[..., None] * cosine.clamp(min=0.05).rsqrt()
    if atlas is not None:
        projected = texture.kind == PROJECTED
        across, up, size = _project(scene, point)
        u, v = torch.where(projected, across, u), torch.where(projected, up, v)
        footprint = torch.where(projected, footprint * size, footprint)
    albedo = paint(texture, u, v, face, footprint, atlas)
    light = _lambert(scene, point, normal)
    sky = is_sky(scene, hit.surface)
    colours = zip(albedo, _sky(scene, direction), strict=True)
    seen = [torch.where(sky, far, near * light) for near, far in colours]
    return torch.stack([2 * colour.clamp(0, 1) - 1 for colour in seen], dim=2)


def _pixel_centres(size: tuple[int, int], device: torch.device) -> tuple[Float[Tensor, " n"], ...]:
    x, y = pixel_grid(*size, device=device).reshape(-1, 2).unbind(1)
    return x, y


def camera_rays(
    intrinsics: Float[Tensor, "b g 3 3"],
    cam_to_world: Float[Tensor, "b g 4 4"],
    x: Float[Tensor, " n"],
    y: Float[Tensor, " n"],
) -> Vector:
    """World directions through image points, with component 1 along the optical axis.

    Args:
        intrinsics: In pixels.
        cam_to_world: Poses of the cameras.
        x: Horizontal positions of the points in pixels.
        y: Vertical positions of the points in pixels.
    """
    right = (x - intrinsics[..., 0, 2, None]) / intrinsics[..., 0, 0, None]
    down = (y - intrinsics[..., 1, 2, None]) / intrinsics[..., 1, 1, None]
    r = cam_to_world[..., None]
    a, b, c = (r[..., i, 0, :] * right + r[..., i, 1, :] * down + r[..., i, 2, :] for i in range(3))
    return a, b, c


def cast(
    scene: Scene,
    intrinsics: Float[Tensor, "b g 3 3"],
    cam_to_world: Float[Tensor, "b g 4 4"],
    x: Float[Tensor, " n"],
    y: Float[Tensor, " n"],
) -> tuple[Vector, Hit]:
    """World directions through image points, and what these rays hit; distances are z depths."""
    direction = camera_rays(intrinsics, cam_to_world, x, y)
    return direction, first_hit(scene, cam_to_world[..., :3, 3], direction)


@functools.cache
def _compiled(function: Callable[P, T]) -> Callable[P, T]:
    return torch.compile(function, dynamic=False)


def render(
    scene: Scene,
    intrinsics: Float[Tensor, "b g 3 3"],
    cam_to_world: Float[Tensor, "b g 4 4"],
    size: tuple[int, int],
    samples: int = 1,
    atlas: UInt8[Tensor, "p 3 t"] | None = None,
    compiled: bool = False,
) -> Frame:
    """Render g views of each scene.

    Args:
        scene: The scenes, in single precision.
        intrinsics: In pixels, pixel centres at integer coordinates.
        cam_to_world: Poses of OpenCV cameras inside the rooms.
        size: Height and width in pixels.
        samples: The colour of a pixel is the mean over a grid of samples x samples rays. Depth and
            label always belong to the ray through the pixel's centre.
        atlas: Photographs for the surfaces that have a photograph as texture.
        compiled: Whether to compile, for exactly these shapes. Geometry and colour are compiled
            separately: compiled together, each loop over the colours would compute the geometry
            again.
    """
    see, colour = (_compiled(cast), _compiled(shade)) if compiled else (cast, shade)
    x, y = _pixel_centres(size, intrinsics.device)
    origin = cam_to_world[..., :3, 3]
    pixel = 1 / (samples * intrinsics[..., 0, 0])

    centre, hit = see(scene, intrinsics, cam_to_world, x, y)
    if samples == 1:
        image = colour(scene, origin, centre, hit, pixel, atlas)
    else:
        offsets = [(i + 0.5) / samples - 0.5 for i in range(samples)]
        image = torch.zeros_like(hit.distance)[:, :, None]
        for dx, dy in ((dx, dy) for dy in offsets for dx in offsets):
            ray, end = see(scene, intrinsics, cam_to_world, x + dx, y + dy)
            image = image + colour(scene, origin, ray, end, pixel, atlas)
        image = image / samples**2
    valid = ~is_sky(scene, hit.surface)
    return Frame(
        image=image,
        depth=torch.where(valid, hit.distance, 0.0),
        labels=(hit.surface - WALLS + 1).clamp(min=0),
        valid=valid,
    )


def sight_lines(
    scene: Scene,
    intrinsics: Float[Tensor, "b 2 3 3"],
    cam_to_world: Float[Tensor, "b 2 4 4"],
    size: tuple[int, int],
) -> PixelMatches:
    """Return where view 2's pixels lie in view 1, and whether camera 1 sees their points.

    A point is visible if it projects into view 1 and a ray from camera 1 hits nothing before
    it. Sky is never visible.

    Args:
        scene: The scenes, in single precision.
        intrinsics: In pixels.
        cam_to_world: Poses of both cameras.
        size: Height and width of both views in pixels.
    """
    height, width = size
    origin = cam_to_world[:, :, :3, 3]
    x, y = _pixel_centres(size, origin.device)
    ray, hit = cast(scene, intrinsics[:, 1:], cam_to_world[:, 1:], x, y)
    point = points_at(components(origin[:, 1:]), ray, hit.distance)
    eye = components(origin[:, :1])
    towards = (point[0] - eye[0], point[1] - eye[1], point[2] - eye[2])
    # The point itself is at distance 1 along these rays. Rounding moves it by much less than
    # SAME_POINT.
    hidden = blocked(scene, eye, towards, 1 - SAME_POINT)

    local = torch.cat(towards, dim=1).mT @ cam_to_world[:, 0, :3, :3]
    pixels = project(local.reshape(-1, *size, 3), intrinsics[:, 0])
    _, inside = patch_of_pixels(pixels, height, width, 1)
    free = (~hidden & ~is_sky(scene, hit.surface)).reshape(inside.shape)
    return PixelMatches(pixels, inside & free)
