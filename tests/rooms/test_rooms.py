"""The procedural rooms: exact geometry, determinism, visibility, and what the scenes are like."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prob3r.errors import Prob3rError
from prob3r.geometry import pixel_matches, rotation_between, transform, unproject
from prob3r.rooms import Rooms, contact_sheet
from prob3r.rooms import dataset as dataset_module
from prob3r.rooms import render as render_module
from prob3r.rooms.atlas import EDGE, read_atlas, read_texel
from prob3r.rooms.cameras import FOV, MARGIN, clearance, look_at
from prob3r.rooms.draws import Draws
from prob3r.rooms.handheld import FOV as LENSES
from prob3r.rooms.handheld import MARGIN as CLOSEST
from prob3r.rooms.rays import (
    FAR,
    intersect_ball,
    intersect_box,
    intersect_cylinder,
    intersect_room,
)
from prob3r.rooms.render import render
from prob3r.rooms.scene import OBJECTS
from prob3r.rooms.textures import PROJECTED, hash_cells, hsv_to_rgb, value_noise
from prob3r.scenes.views import Pair, Views
from tests.checks import every

SIZE = (32, 32)
COUNT = 256
# Means of the first four pairs: of view 1's colours, and of view 2's depths.
STAGED = (
    (0.01944, -0.22846, -0.21063, -0.24423),
    (2.84025, 3.80371, 2.54448, 3.34631),
)


@pytest.fixture(scope="module")
def rooms() -> Rooms:
    return Rooms("test", SIZE, compile=False)


@pytest.fixture(scope="module")
def pairs(rooms: Rooms) -> Pair:
    return rooms.batch(range(COUNT))


def vector(x: float, y: float, z: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    a, b, c = torch.tensor([x, y, z], dtype=torch.float64)[:, None, None, None].unbind(0)
    return a, b, c


@pytest.mark.parametrize(
    ("intersect", "origin", "direction", "expected"),
    [
        (intersect_box, (3, 0.5, 0.2), (-1, 0, 0), 2.0),
        (intersect_box, (3, 3, 0), (-1, -1, 0), 2.0),
        (intersect_box, (3, 0.5, 0.2), (-0.5, 0, 0), 4.0),  # distance counts in directions
        (intersect_box, (3, 0, 0), (1, 0, 0), FAR),  # behind
        (intersect_box, (3, 1.5, 0.2), (-1, 0, 0), FAR),  # beside
        (intersect_ball, (0, 0, 4), (0, 0, -1), 3.0),
        (intersect_ball, (0.6, 0, 4), (0, 0, -2), 1.6),  # 4 - sqrt(1 - 0.36) = 3.2
        (intersect_ball, (1.1, 0, 4), (0, 0, -1), FAR),
        (intersect_ball, (0, 0, 4), (0, 0, 1), FAR),
        (intersect_cylinder, (5, 0, 0.9), (-1, 0, 0), 4.0),  # the side
        (intersect_cylinder, (0.9, 0, 5), (0, 0, -1), 4.0),  # the lid
        (intersect_cylinder, (5, 0.8, 0), (-1, 0, 0), 4.4),
        (intersect_cylinder, (5, 0, 1.1), (-1, 0, 0), FAR),
        (intersect_cylinder, (0.8, 0.8, 5), (0, 0, -1), FAR),
        (intersect_cylinder, (3, 0, 3), (-1, 0, -1), 2.0),  # the rim
        (intersect_room, (0, 0, 0), (1, 0.5, 0), 1.0),
        (intersect_room, (0.5, 0, -0.5), (0.1, 0, 1), 1.5),
    ],
)
def test_rays_meet_shapes_where_they_should(intersect, origin, direction, expected):
    distance = intersect(vector(*origin), vector(*direction))
    torch.testing.assert_close(distance, torch.full_like(distance, expected))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_ray_into_a_shape_ends_on_its_surface(seed):
    numbers = torch.randn(6, 64, generator=torch.Generator().manual_seed(seed)).double()
    start = torch.nn.functional.normalize(numbers[:3], dim=0) * 4
    origin = tuple(c[None, None] for c in start)
    heading = tuple(c[None, None] for c in 0.3 * numbers[3:] - start)
    for intersect, size in (
        (intersect_box, lambda x, y, z: torch.stack([x.abs(), y.abs(), z.abs()]).amax(0)),
        (intersect_ball, lambda x, y, z: (x * x + y * y + z * z).sqrt()),
        (intersect_cylinder, lambda x, y, z: torch.maximum((x * x + y * y).sqrt(), z.abs())),
    ):
        distance = intersect(origin, heading)
        met = distance < FAR
        point = [o + distance * d for o, d in zip(origin, heading, strict=True)]
        assert met.any()
        torch.testing.assert_close(size(*point)[met], torch.ones_like(distance)[met])
        # Nothing of the shape lies before the hit.
        for share in (0.5, 0.9, 0.999):
            early = [o + share * distance * d for o, d in zip(origin, heading, strict=True)]
            assert every(size(*early)[met] > 1)


def test_cameras_look_at_their_target():
    eye, target = torch.tensor([[1.0, 2.0, 1.5]]), torch.tensor([[3.0, 2.0, 1.5]])
    pose = look_at(eye, target, torch.zeros(1))[0]
    expected = torch.tensor(
        [[0.0, 0.0, 1.0, 1.0], [-1.0, 0.0, 0.0, 2.0], [0.0, -1.0, 0.0, 1.5], [0.0, 0.0, 0.0, 1.0]]
    )
    torch.testing.assert_close(pose, expected)  # right is -y, down is -z, forward is x
    rolled = look_at(eye, target, torch.tensor([math.pi / 2]))[0]
    torch.testing.assert_close(rolled[:3, 0], torch.tensor([0.0, 0.0, -1.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rolled[:3, :3]), torch.tensor(1.0))


def test_draws_are_handed_out_in_order():
    draws = Draws(torch.arange(10.0)[None] / 10)
    torch.testing.assert_close(draws.between(0.0, 10.0, 2), torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(draws.between(-1.0, 1.0), torch.tensor([-0.6]))
    assert draws.order(3).tolist() == [[0, 1, 2]]


def test_hashes_are_spread_evenly_and_depend_on_everything():
    x, y = torch.meshgrid(torch.arange(-128, 128), torch.arange(-128, 128), indexing="ij")
    x, y = x.int(), y.int()
    values = hash_cells(x, y, torch.full_like(x, 5))
    counts = values.histc(16, 0, 1)
    assert counts.min() > 0.8 * counts.mean()
    assert counts.max() < 1.2 * counts.mean()
    for other in (hash_cells(x + 1, y, x * 0 + 5), hash_cells(x, y + 1, x * 0 + 5)):
        assert torch.corrcoef(torch.stack([values.flatten(), other.flatten()]))[0, 1].abs() < 0.03
    assert (values != hash_cells(x, y, torch.full_like(x, 6))).float().mean() > 0.99


def test_noise_passes_through_its_lattice_and_is_continuous():
    seed = torch.tensor([3, 3, 3]).int()
    u, v = torch.tensor([2.0, 1.99999, 2.00001]), torch.tensor([-1.0, -1.00001, -0.99999])
    lattice = hash_cells(torch.tensor([2]).int(), torch.tensor([-1]).int(), seed[:1])
    torch.testing.assert_close(value_noise(u, v, seed), lattice.expand(3), atol=1e-4, rtol=0)


def test_colours_from_hue():
    hsv = torch.tensor([[0.0, 1.0, 1.0], [1 / 3, 1.0, 0.5], [2 / 3, 0.5, 1.0], [0.2, 0.0, 0.7]])
    rgb = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.5, 0.5, 1.0], [0.7, 0.7, 0.7]])
    torch.testing.assert_close(hsv_to_rgb(hsv), rgb)


def test_a_pair_depends_on_its_number_alone(rooms, pairs):
    again = rooms.batch([200, 7])
    for new, row in ((0, 200), (1, 7)):
        for view, old in ((again.view1, pairs.view1), (again.view2, pairs.view2)):
            torch.testing.assert_close(view.image[new], old.image[row], atol=1e-5, rtol=0)
            torch.testing.assert_close(view.depth[new], old.depth[row], atol=1e-4, rtol=0)
            assert torch.equal(view.labels[new], old.labels[row])
            assert torch.equal(view.cam_to_world[new], old.cam_to_world[row])
    assert again.names == ("rooms/test/200", "rooms/test/7")
    assert torch.equal(rooms[7].view1.image, rooms[7].view1.image)


def test_splits_share_no_pair():
    batches = [Rooms(s, (8, 8), compile=False).batch(range(4)) for s in ("train", "validation")]
    batches.append(Rooms("test", (8, 8), compile=False).batch(range(4)))
    images = torch.cat([b.view1.image for b in batches]).flatten(1)
    assert (torch.cdist(images, images) + 9 * torch.eye(len(images))).min() > 1


def test_the_last_pair_of_a_split_is_not_the_first_of_the_next():
    train, validation = (Rooms(s, (8, 8), compile=False) for s in ("train", "validation"))
    last, first = train[len(train) - 1], validation[0]
    assert not torch.equal(last.view1.image, first.view1.image)
    with pytest.raises(Prob3rError, match="must be from 0 to"):
        train.batch([len(train)])


def test_cameras_agree_with_the_batch_and_with_any_size(rooms, pairs):
    intrinsics, poses = rooms.cameras(range(5))
    assert torch.equal(intrinsics[:, 1], pairs.view2.intrinsics[:5])
    assert torch.equal(poses[:, 0], pairs.view1.cam_to_world[:5])
    wide = Rooms("test", (24, 96), compile=False)
    other, same = wide.cameras(range(5))
    assert torch.equal(same, poses)
    torch.testing.assert_close(other[..., 0, 0] / 96, intrinsics[..., 0, 0] / 32)
    assert (other[..., 0, 2] == 47.5).all()
    assert (other[..., 1, 2] == 11.5).all()


def test_images_depths_and_masks_are_in_range(pairs):
    for view in (pairs.view1, pairs.view2):
        assert view.image.min() >= -1
        assert view.image.max() <= 1
        assert view.image.std(dim=(1, 2, 3)).min() > 0.1
        assert torch.equal(view.valid, view.depth > 0)
        assert view.depth.max() < 40
        assert every(view.labels[~view.valid] == 0)
        assert view.labels.max() == OBJECTS
        fov = torch.rad2deg(2 * torch.atan(0.5 * SIZE[1] / view.intrinsics[:, 0, 0]))
        assert fov.min() >= FOV[0] - 1e-3
        assert fov.max() <= FOV[1] + 1e-3
        rotation = view.cam_to_world[:, :3, :3]
        torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand_as(rotation))


def test_cameras_keep_clear_of_walls_and_objects(rooms):
    scene, cameras = rooms._draw(range(COUNT))
    eye = cameras.cam_to_world[..., :3, 3]
    assert clearance(scene, eye).min() >= MARGIN
    assert (scene.room[:, None, :2] - eye[..., :2].abs()).min() >= MARGIN - 1e-9
    assert eye[..., 2].min() > 0.7
    assert (2 * scene.room[:, None, 2] - eye[..., 2]).min() > 0.1


def test_points_lie_on_the_surfaces_of_their_objects(rooms, pairs):
    """World points, from depth and cameras alone, against the shapes' equations."""
    scene, _ = rooms._draw(range(COUNT))
    points = torch.einsum("bij,bhwj->bhwi", pairs.view1.cam_to_world[:, :3, :3], pairs.view1.points)
    points = points + pairs.view1.cam_to_world[:, None, None, :3, 3]
    for k in range(OBJECTS):
        offset = points.double() - scene.centre[:, None, None, k]
        x, y, z = torch.einsum("bij,bhwj->bhwi", scene.linear[:, k], offset).unbind(-1)
        if k < 4:
            size = torch.stack([x.abs(), y.abs(), z.abs()]).amax(0)
        elif k < 6:
            size = (x * x + y * y + z * z).sqrt()
        else:
            size = torch.maximum((x * x + y * y).sqrt(), z.abs())
        # A micrometre is large against the thickness of a panel.
        on = size[pairs.view1.labels == k + 1]
        torch.testing.assert_close(on, torch.ones_like(on), atol=1e-3, rtol=0)
    background = points[(pairs.view1.labels == 0) & pairs.view1.valid]
    assert background[:, 2].min() > -1e-3


def test_visible_points_have_the_same_label_in_view_1():
    rooms = Rooms("test", (96, 96), compile=False)
    pairs, matches = rooms.batch(range(16)), rooms.visible_in_1(range(16))
    nearest = matches.pixels.nan_to_num().round().long().clamp(0, 95)
    batch = torch.arange(16)[:, None, None]
    labels = pairs.view1.labels[batch, nearest[..., 1], nearest[..., 0]]
    # Half a pixel of rounding changes the label at silhouettes only.
    same = (labels == pairs.view2.labels)[matches.visible].float().mean()
    assert same > 0.97
    colour = pairs.view1.image.movedim(1, -1)[batch, nearest[..., 1], nearest[..., 0]]
    apart = (colour - pairs.view2.image.movedim(1, -1)).abs().mean(dim=-1)
    shuffled = (colour.roll(1, 0) - pairs.view2.image.movedim(1, -1)).abs().mean(dim=-1)
    assert apart[matches.visible].mean() < 0.4 * shuffled[matches.visible].mean()


def test_sight_lines_agree_with_depth_comparison():
    rooms = Rooms("test", (96, 96), compile=False)
    pairs, cast = rooms.batch(range(16)), rooms.visible_in_1(range(16))
    compared = pixel_matches(pairs.match_truth)
    both = cast.visible & compared.visible
    torch.testing.assert_close(cast.pixels[both], compared.pixels[both], atol=1e-2, rtol=0)
    assert (cast.visible == compared.visible).float().mean() > 0.985


def test_pairs_are_hard_but_not_hopeless(rooms, pairs):
    rotation = rotation_between(pairs.view1.cam_to_world, pairs.view2.cam_to_world)
    assert 40 <= rotation.median() <= 60
    assert rotation.min() < 10
    assert rotation.max() > 80
    share = pairs.overlap()
    visible = rooms.visible_in_1(range(COUNT)).visible.float().mean(dim=(1, 2))
    for values in (share, visible):
        assert 0.4 <= values.median() <= 0.5
        assert (values < 0.1).float().mean() < 0.03


@pytest.fixture(scope="module")
def everyday() -> Rooms:
    return Rooms("test", SIZE, compile=False, style="everyday")


def test_the_staged_style_is_the_default(pairs):
    """Shipped findings depend on it: these numbers may change only with the findings."""
    staged = Rooms("test", SIZE, compile=False, style="staged").batch(range(4))
    assert torch.equal(staged.view2.image, pairs.view2.image[:4])
    expected = torch.tensor(STAGED)
    torch.testing.assert_close(
        pairs.view1.image[:4].mean(dim=(1, 2, 3)), expected[0], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        pairs.view2.depth[:4].mean(dim=(1, 2)), expected[1], atol=1e-3, rtol=0
    )


def test_everyday_cameras_are_clear_of_everything(everyday):
    scene, cameras = everyday._draw(range(COUNT))
    eye = cameras.cam_to_world[..., :3, 3]
    assert (clearance(scene, eye) < CLOSEST).float().mean() < 0.01
    assert (scene.room[:, None, :2] - eye[..., :2].abs()).min() >= CLOSEST - 1e-9
    assert eye[..., 2].min() >= CLOSEST - 1e-9
    assert (2 * scene.room[:, None, 2] - eye[..., 2]).min() >= CLOSEST - 1e-9


def test_everyday_cameras_move_as_people_do(everyday):
    """Small motions are as common as large ones, lenses are mostly shared, some are turned."""
    intrinsics, poses = everyday.cameras(range(COUNT))
    fov = torch.rad2deg(2 * torch.atan(0.5 * SIZE[1] / intrinsics[..., 0, 0]))
    assert fov.min() >= LENSES[0] - 1e-3
    assert fov.max() <= LENSES[1] + 1e-3
    assert 0.7 < (fov[:, 0] == fov[:, 1]).float().mean() < 0.95
    rotation = rotation_between(poses[:, 0], poses[:, 1])
    assert 15 < rotation.median() < 40
    assert (rotation < 15).float().mean() > 0.2
    assert (rotation > 60).float().mean() > 0.1
    baseline = (poses[:, 0, :3, 3] - poses[:, 1, :3, 3]).norm(dim=-1)
    assert baseline.min() < 0.15
    assert baseline.max() > 2
    aslant = poses[:, 0, 2, 0].abs()  # sine of the roll, for a level camera
    assert 0.05 < (aslant > 0.7).float().mean() < 0.25
    assert everyday.batch(range(64)).overlap().median() > 0.35


def test_everyday_surfaces_are_paler_and_plainer(everyday, pairs):
    plain = everyday.batch(range(64))

    def colourfulness(image):
        return (image.amax(dim=1) - image.amin(dim=1)).mean()

    assert colourfulness(plain.view1.image) < 0.75 * colourfulness(pairs.view1.image[:64])


def test_small_things_stand_on_furniture_or_on_the_floor(everyday):
    scene, _ = everyday._draw(range(COUNT))
    small = slice(OBJECTS, 2 * OBJECTS)
    present = scene.prototype[:, small] >= 0
    assert 3 < present.sum(dim=1).double().mean() < 7
    bottom = (scene.centre - scene.half)[:, small, 2]
    top = (scene.centre + scene.half)[:, :OBJECTS, 2]
    gap = torch.cat([bottom[..., None], (bottom[..., None] - top[:, None]).abs()], dim=-1)
    assert gap.amin(dim=-1)[present].max() < 1e-9
    assert (bottom[present] > 0.1).double().mean() > 0.3
    assert scene.half[:, small].max() <= 0.15


def test_a_projected_photograph_lies_where_its_projector_throws_it(tmp_path):
    ramp = torch.linspace(0, 255, 256).round().to(torch.uint8)
    red_up_to_the_right = torch.stack([ramp.expand(256, 256), ramp.expand(256, 256).T], dim=-1)
    blue = torch.zeros(256, 256, 1, dtype=torch.uint8)
    picture = torch.cat([red_up_to_the_right, blue], dim=-1).numpy()
    Image.fromarray(picture).save(tmp_path / "ramp.png")
    rooms = Rooms("test", SIZE, photographs=tmp_path, compile=False, style="everyday")
    scene, _ = rooms._draw(range(16))
    intrinsics, poses = rooms.cameras(range(16))
    scene = scene._replace(
        power=torch.zeros_like(scene.power), ambient=torch.ones_like(scene.ambient)
    )
    frame = render(scene.single(), intrinsics, poses, SIZE, atlas=rooms.atlas)
    wide = scene.textures[..., 0].take_along_dim(
        (frame.labels.flatten(1) + 5).clamp(min=5).long(), dim=1
    )
    covered = (wide.reshape(frame.labels.shape) == PROJECTED) & (frame.labels > 0)
    assert covered.float().mean() > 0.03

    local = unproject(frame.depth.reshape(-1, *SIZE), intrinsics.flatten(0, 1))
    world = transform(local, poses.flatten(0, 1)).reshape(16, -1, 3)
    p = scene.projector.float()
    x, y, z = (world @ p[:, :, :3].mT + p[:, None, :, 3]).unbind(-1)
    z = z.abs()
    for channel, expected in ((0, x / z), (1, -(y / z))):
        seen = (frame.image[:, :, channel] / 2 + 0.5).reshape(16, -1)
        mirrored = 1 - (expected % 2 - 1).abs()
        near = covered.reshape(16, -1) & (z > 0.3)
        assert (seen - mirrored)[near].abs().median() < 0.02


def test_everyday_lookalikes_share_their_texture():
    rooms = Rooms("test", SIZE, lookalikes=True, compile=False, style="everyday")
    scene, _ = rooms._draw(range(8))
    for b, slot in scene.alike.nonzero().tolist():
        row = 6 + int(scene.prototype[b, slot])
        assert torch.equal(scene.textures[b, 6 + slot], scene.textures[b, row])


def test_lookalikes_share_shape_and_texture_and_stand_apart():
    rooms = Rooms("test", SIZE, lookalikes=True, compile=False)
    scene, _ = rooms._draw(range(64))
    prototypes = rooms.prototypes(range(64))
    groups = 0
    for b in range(64):
        present = prototypes[b] >= 0
        for prototype in prototypes[b][present].unique().tolist():
            slots = (prototypes[b] == prototype).nonzero()[:, 0]
            if len(slots) == 1:
                continue
            groups += 1
            assert len(slots) in (2, 3)
            for slot in slots.tolist():
                torch.testing.assert_close(scene.half[b, slot], scene.half[b, prototype])
                assert torch.equal(scene.textures[b, 6 + slot], scene.textures[b, 6 + prototype])
            distance = torch.pdist(scene.centre[b, slots])
            assert distance.min() > 2 * scene.half[b, prototype, :2].amin()
    assert groups == 64
    pairs = rooms.batch(range(64))
    shown = [((pairs.view2.labels == k + 1).flatten(1).sum(1) > 0) for k in range(OBJECTS)]
    alike = scene.alike & torch.stack(shown, dim=1)
    assert (alike.sum(dim=1) >= 2).float().mean() > 0.8


def test_ordinary_scenes_have_no_lookalikes(rooms):
    prototypes = rooms.prototypes(range(64))
    own = torch.arange(OBJECTS).expand_as(prototypes)
    assert torch.equal(prototypes[prototypes >= 0], own[prototypes >= 0])
    count = (prototypes >= 0).sum(dim=1)
    assert count.min() >= 3
    assert count.max() == OBJECTS


def test_samples_smooth_colours_but_not_geometry(rooms, pairs):
    smooth = Rooms("test", SIZE, samples=2, compile=False).batch(range(8))
    assert torch.equal(smooth.view1.depth, pairs.view1.depth[:8])
    assert torch.equal(smooth.view1.labels, pairs.view1.labels[:8])
    fine = Rooms("test", (128, 128), compile=False).batch(range(8)).view1.image
    mean = torch.nn.functional.avg_pool2d(fine, 4)
    error, before = ((v.view1.image[:8] - mean).abs().mean() for v in (smooth, pairs))
    assert error < 0.8 * before


def test_photographs_cover_half_of_the_surfaces(tmp_path, pairs):
    Image.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("RGB", (30, 50), (0, 255, 0)).save(tmp_path / "b.png")
    rooms = Rooms("test", SIZE, photographs=tmp_path, compile=False)
    covered = rooms.batch(range(32))
    assert torch.equal(covered.view1.depth, pairs.view1.depth[:32])
    red, green, blue = (covered.view1.image / 2 + 0.5).unbind(1)
    pure = (blue < 1e-3) & ((red < 1e-3) ^ (green < 1e-3)) & covered.view1.valid
    assert 0.35 < pure.sum() / covered.view1.valid.sum() < 0.65


def test_rooms_share_the_photographs_of_a_folder_until_it_changes(tmp_path: Path):
    Image.new("RGB", (40, 30), (200, 90, 10)).save(tmp_path / "a.png")
    one, other = (Rooms("test", SIZE, photographs=tmp_path, compile=False) for _ in range(2))
    assert one.atlas is other.atlas
    Image.new("RGB", (40, 30), (20, 90, 10)).save(tmp_path / "b.png")
    assert len(read_atlas(tmp_path)) == len(one.atlas) + 1


def test_a_photograph_is_read_where_and_as_finely_as_asked(tmp_path: Path):
    ramp = torch.arange(EDGE).expand(EDGE, EDGE).to(torch.uint8)
    Image.fromarray(torch.stack([ramp, ramp.T, 0 * ramp], -1).numpy()).save(tmp_path / "a.png")
    atlas = read_atlas(tmp_path)
    u = torch.tensor([0.5, 0.25, 1.75, 0.5, 0.5])
    v = torch.tensor([0.5, 0.25, 0.25, -0.25, 0.25])
    width = torch.tensor([1 / EDGE, 1 / EDGE, 1 / EDGE, 1 / EDGE, 0.05])
    red, green, blue = read_texel(atlas, torch.zeros(5).int(), u, v, width)
    # Mirrored on every side: u = 1.75 is u = 0.25. v is upwards, rows run downwards.
    torch.testing.assert_close(red, torch.tensor([0.5, 0.25, 0.25, 0.5, 0.5]), atol=4e-3, rtol=0)
    upright = torch.tensor([0.5, 0.25, 0.25, 0.25, 0.25])
    torch.testing.assert_close(green, upright, atol=4e-3, rtol=0)
    assert blue.abs().max() == 0
    checker = (255 * ((ramp.int() + ramp.T.int()) % 2)).to(torch.uint8)
    Image.fromarray(checker.numpy()).convert("RGB").save(tmp_path / "a.png")
    grey, _, _ = read_texel(read_atlas(tmp_path), torch.zeros(5).int(), u, v, 0 * u + 4 / EDGE)
    torch.testing.assert_close(grey, torch.full((5,), 0.5), atol=4e-3, rtol=0)


def test_mistakes_are_named(tmp_path, pairs):
    with pytest.raises(Prob3rError, match="must be one of train, validation, test"):
        Rooms("holdout", SIZE)
    with pytest.raises(Prob3rError, match="must be one of staged, everyday"):
        Rooms("test", SIZE, style="weekend")
    with pytest.raises(Prob3rError, match="must name at least one pair"):
        Rooms("test", SIZE).batch([])
    with pytest.raises(Prob3rError, match="holds no photograph"):
        Rooms("test", SIZE, photographs=tmp_path)
    view = type(pairs.view1)(image=pairs.view1.image)
    with pytest.raises(Prob3rError, match="needs it for both views"):
        contact_sheet(Pair(view, view, pairs.names))


def test_without_a_compiler_rooms_are_rendered_all_the_same(monkeypatch, caplog, pairs):
    def broken(_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(render_module, "_compiled", broken)
    with caplog.at_level("WARNING"):
        batch = Rooms("test", SIZE).batch(range(2))
    assert "without a compiler" in caplog.text
    torch.testing.assert_close(batch.view1.image, pairs.view1.image[:2], atol=1e-5, rtol=0)


def test_batches_of_any_size_run_at_the_compiled_one(monkeypatch, pairs):
    seen = []

    def watched(function):
        def call(scene, *rest):
            seen.append(len(scene.room))
            return function(scene, *rest)

        return call

    monkeypatch.setattr(render_module, "_compiled", watched)
    rooms = Rooms("test", SIZE)
    for count in (4, 3, 9):
        batch = rooms.batch(range(count))
        assert len(batch) == count
        torch.testing.assert_close(batch.view2.depth, pairs.view2.depth[:count], atol=1e-4, rtol=0)
    assert seen == [8] * 10  # geometry and colour of 1 + 1 + 3 chunks


def test_compiled_chunks_are_small_on_a_cpu(monkeypatch, pairs):
    monkeypatch.setattr(render_module, "_compiled", lambda function: function)
    monkeypatch.setattr(dataset_module, "CACHED", 3 * 32 * 32 + 5)
    rooms = Rooms("test", SIZE)
    batch = rooms.batch(range(8))
    assert rooms.chunk == 3
    assert torch.equal(batch.view1.labels, pairs.view1.labels[:8])
    wide = Rooms("test", (32, 512))
    wide.batch(range(2))
    assert wide.chunk == 1


def test_any_number_of_views_runs_at_the_compiled_size(monkeypatch):
    monkeypatch.setattr(render_module, "_compiled", lambda function: function)
    rooms = Rooms("test", SIZE)
    rooms.chunk = 4
    for views in (2, 3, 5):
        found = rooms.with_views(views)
        seen = found.batch(range(3))
        expected = Rooms("test", SIZE, compile=False, views=views).batch(range(3))
        assert found.chunk == 4
        for one, other in zip(seen.views, expected.views, strict=True):
            assert torch.equal(one.labels, other.labels)
            torch.testing.assert_close(one.image, other.image, atol=1e-5, rtol=0)
            torch.testing.assert_close(one.depth, other.depth, atol=1e-4, rtol=0)


def test_the_contact_sheet_shows_four_tiles_a_pair(pairs):
    sheet = contact_sheet(pairs[:3], scale=2)
    assert sheet.size == (2 * (4 * 32 + 3 * 4), 2 * (3 * 32 + 2 * 4))
    red, green, blue = (pairs.view1.image[0, :, 0, 0] / 2 + 0.5).mul(255).round().int().tolist()
    assert sheet.getpixel((0, 0)) == (red, green, blue)


def test_more_cameras_leave_the_pair_as_it_is_and_see_the_same_things() -> None:
    pairs = Rooms("test", size=(24, 24), compile=False).batch(range(20))
    assert type(pairs) is Pair
    some = Rooms("test", size=(24, 24), compile=False, views=5).batch(range(20))
    assert (type(some), some.count) == (Views, 5)
    assert (some.names, some.scenes) == (pairs.names, pairs.scenes)
    for one, other in zip(pairs.views, some.views, strict=False):
        assert torch.equal(one.image, other.image)
        assert one.depth is not None
        assert other.depth is not None
        assert torch.equal(one.depth, other.depth)
    fewer = Rooms("test", size=(24, 24), compile=False, views=3).batch(range(20))
    assert torch.equal(fewer.cam_to_world, some.cam_to_world[:, :3])
    overlaps = torch.stack([some.pair(1, number).overlap() for number in (3, 4, 5)])
    assert overlaps.min() > 0.05
    assert overlaps.median() > 0.3
    places = some.cam_to_world[..., :3, 3]
    apart = torch.cdist(places, places) + torch.eye(5)
    assert apart.flatten(1).amin(1).median() > 0.1


def test_a_room_has_two_views_at_least() -> None:
    with pytest.raises(Prob3rError, match="views is 1; a scene needs two views or more"):
        Rooms("test", size=(24, 24), views=1)
