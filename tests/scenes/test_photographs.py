import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prob3r.errors import Prob3rError
from prob3r.geometry import pixel_grid, project
from prob3r.models import DUSt3R, DUSt3RConfig
from prob3r.scenes import photographs
from prob3r.scenes.framing import Framing
from prob3r.scenes.photographs import load_photograph

SQUARE = Framing(64, "square")
LONG = Framing(128, "long")
ORIENTATION = 0x0112

sides = st.integers(16, 9000)


def pinhole(focal: float, x: float, y: float) -> torch.Tensor:
    return torch.tensor([[[focal, 0.0, x], [0.0, focal, y], [0.0, 0.0, 1.0]]])


def ramp(width: int = 96, height: int = 64) -> Image.Image:
    """Red grows to the right, green downwards, blue is constant."""
    x = np.linspace(0, 255, width)[None].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([x, y, np.full_like(x, 60)], -1).round().astype(np.uint8))


def load(image: Image.Image, path: Path, framing: Framing = SQUARE, **options) -> torch.Tensor:
    image.save(path, **options)
    return load_photograph(path, framing).image


# --- framing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framing", "full", "size"),
    [
        (Framing(512, "long"), (480, 640), (384, 512)),
        (Framing(512, "long"), (640, 480), (512, 384)),
        (Framing(512, "long"), (1080, 1920), (288, 512)),
        (Framing(512, "long"), (2000, 3000), (336, 512)),
        (Framing(512, "long"), (100, 100), (384, 512)),
        (Framing(512, "long"), (1000, 1001), (496, 512)),
        (Framing(512, "long"), (384, 512), (384, 512)),
        (Framing(224, "square"), (480, 640), (224, 224)),
        (Framing(224, "square"), (50, 20), (224, 224)),
        (Framing(96, "square", patch=8), (640, 480), (96, 96)),
    ],
)
def test_sizes_are_the_official_ones(framing, full, size):
    assert framing.crop_of(full).size == size


@given(height=sides, width=sides, patch=st.sampled_from([8, 14, 16]), count=st.integers(4, 40))
def test_long_keeps_multiples_of_the_patch_and_the_aspect(height, width, patch, count):
    long = patch * count
    if min(height, width) * count < max(height, width):
        return
    crop = Framing(long, "long", patch).crop_of((height, width))
    assert max(crop.resized) == long
    assert abs(min(crop.resized) - long * min(height, width) / max(height, width)) <= 0.5
    assert all(side % patch == 0 and patch <= side <= long for side in crop.size)
    if crop.resized[0] != crop.resized[1]:
        lost = [r - s for r, s in zip(crop.resized, crop.size, strict=True)]
        assert all(0 <= side < patch for side in lost)


@given(height=sides, width=sides, x=st.floats(-1e4, 2e4), y=st.floats(-1e4, 2e4))
def test_a_window_never_leaves_the_photograph(height, width, x, y):
    for framing in (SQUARE, LONG):
        if min(height, width) * framing.size < 16 * max(height, width):
            continue
        crop = framing.crop_of((height, width), pinhole(100.0, x, y))
        assert 0 <= crop.top <= crop.resized[0] - crop.size[0]
        assert 0 <= crop.left <= crop.resized[1] - crop.size[1]


@given(height=sides, width=sides)
def test_a_central_principal_point_changes_nothing(height, width):
    for framing in (SQUARE, LONG):
        if min(height, width) * framing.size < 16 * max(height, width):
            continue
        central = pinhole(500.0, (width - 1) / 2, (height - 1) / 2)
        assert framing.crop_of((height, width), central) == framing.crop_of((height, width))


def test_the_window_is_centred_on_the_principal_point_as_far_as_it_goes():
    full = (100, 300)
    framing = Framing(96, "square", 8)
    for x, centred in ((140.0, True), (200.0, True), (20.0, False), (290.0, False)):
        crop = framing.crop_of(full, pinhole(100.0, x, 49.5))
        moved = crop.intrinsics(pinhole(100.0, x, 49.5))[0, 0, 2].item()
        assert (abs(moved - 47.5) <= 0.5) == centred
        if not centred:
            assert crop.left == (0 if x < 100 else crop.resized[1] - 96)


@pytest.mark.parametrize(
    ("image_size", "framing"),
    [
        ((224, 224), Framing(224, "square", 16)),
        ((96, 96), Framing(96, "square", 16)),
        ((512, 512), Framing(512, "long", 16)),
        ((384, 512), Framing(512, "long", 16)),
        ((64, 96), Framing(96, "long", 16)),
    ],
)
def test_a_models_size_decides_its_framing(image_size, framing):
    small = {"enc_width": 8, "enc_depth": 1, "enc_heads": 1}
    small |= {"dec_width": 8, "dec_depth": 1, "dec_heads": 1}
    model = DUSt3R(DUSt3RConfig(image_size, **small))
    assert Framing.of(model) == framing
    assert Framing.of(framing) is framing


def test_a_framing_that_is_no_multiple_of_the_patch_is_refused():
    for size, patch in ((100, 16), (0, 16), (8, 16), (16, 0)):
        with pytest.raises(Prob3rError, match="multiple of the patch"):
            Framing(size, "long", patch)


# --- geometry -----------------------------------------------------------------------------------


def blob(width: int, height: int, x: float, y: float, sigma: float) -> Image.Image:
    grid = pixel_grid(height, width)
    level = (-(grid - torch.tensor([x, y])).square().sum(-1) / (2 * sigma**2)).exp()
    return Image.fromarray((255 * level).round().byte().numpy())


def centroid(image: torch.Tensor) -> torch.Tensor:
    weight = (image[0, 0] + 1).square()  # squared, so that rounding in the dark does not count
    grid = pixel_grid(*weight.shape)
    return (grid * weight[..., None]).sum((0, 1)) / weight.sum()


@pytest.mark.parametrize("framing", [SQUARE, LONG, Framing(256, "long"), Framing(256, "square")])
@pytest.mark.parametrize(("width", "height"), [(301, 200), (200, 301), (180, 180), (90, 61)])
def test_a_projected_point_lands_on_its_mark(tmp_path, framing, width, height):
    intrinsics = pinhole(150.0, 0.55 * width, 0.48 * height)
    point = torch.tensor([[0.05 * width / 150, -0.04 * height / 150, 1.0]])[None] * 2.5
    x, y = project(point, intrinsics)[0, 0].tolist()
    sigma = 3.0 * min(width, height) / framing.size if min(width, height) > framing.size else 3.0
    path = tmp_path / "blob.png"
    blob(width, height, x, y, sigma).save(path)
    framed = load_photograph(path, framing, intrinsics=intrinsics)
    expected = project(point, framed.intrinsics)[0, 0]
    torch.testing.assert_close(centroid(framed.image), expected, atol=0.03, rtol=0)


def test_framing_equals_a_resize_and_then_a_crop(tmp_path):
    path = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (217, 333, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.save(path)
    for framing, filter_ in (
        (SQUARE, Image.Resampling.LANCZOS),
        (LONG, Image.Resampling.LANCZOS),
        (Framing(512, "long"), Image.Resampling.BICUBIC),
    ):
        crop = framing.crop_of((217, 333))
        left, top, (height, width) = crop.left, crop.top, crop.size
        slow = image.resize(crop.resized[::-1], filter_)
        slow = np.asarray(slow.crop((left, top, left + width, top + height)), dtype=np.float32)
        fast = ((load_photograph(path, framing).image[0].permute(1, 2, 0) + 1) * 127.5).numpy()
        assert np.abs(fast - slow).max() <= 1.001


def test_a_photograph_of_the_right_size_is_left_as_it_is(tmp_path):
    image = load(ramp(128, 96), tmp_path / "a.png", LONG)
    exact = torch.from_numpy(np.array(ramp(128, 96))).permute(2, 0, 1).float()
    torch.testing.assert_close(image[0], exact / 127.5 - 1)
    assert image.min() == -1
    assert image.max() == 1


def test_depth_and_mask_stay_on_the_colours_they_belong_to(tmp_path):
    path = tmp_path / "a.png"
    ramp(211, 157).save(path)
    x = torch.linspace(0, 255, 211).expand(157, 211)
    depth = x.clone()
    depth[:, 100:] = 0
    for framing in (SQUARE, LONG, Framing(256, "long")):
        framed = load_photograph(path, framing, depth=depth)
        red = (framed.image[0, 0] + 1) * 127.5
        assert torch.equal(framed.valid, framed.depth > 0)
        inner = framed.valid[0] & (red > 20)  # the filter flattens the ramp at the very edge
        # The nearest source pixel is half of one away at most; both reds are rounded by half.
        assert (framed.depth[0] - red)[inner].abs().max() <= 255 / 210 / 2 + 1
        assert set(framed.depth.unique().tolist()) <= set(depth.unique().tolist())


def test_depth_must_have_the_photographs_size(tmp_path):
    ramp().save(tmp_path / "a.png")
    with pytest.raises(Prob3rError, match=r"a\.png is 96x64 pixels but its depth is 95x64"):
        load_photograph(tmp_path / "a.png", SQUARE, depth=torch.ones(64, 95))


# --- kinds of image -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_every_orientation_comes_out_upright(tmp_path, orientation, undo, suffix):
    upright = load(ramp(), tmp_path / "upright.png", LONG)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = ramp().transpose(undo)
    assert torch.equal(load(stored, tmp_path / f"held.{suffix}", LONG, exif=exif), upright)


def test_intrinsics_are_those_of_the_upright_photograph(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    ramp(96, 64).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    framed = load_photograph(
        tmp_path / "a.png", LONG, intrinsics=pinhole(90.0, 47.5, 31.5), depth=torch.ones(64, 96)
    )
    assert framed.image.shape[2:] == (80, 128)
    torch.testing.assert_close(framed.intrinsics[0, 0, 2].item(), 63.5)


def test_grey_images_of_any_depth_have_three_equal_channels(tmp_path):
    grey = ramp().getchannel(0)
    expected = load(grey, tmp_path / "l.png")
    assert torch.equal(expected[:, 0], expected[:, 1])
    assert torch.equal(expected[:, 0], expected[:, 2])
    sixteen = np.asarray(grey).astype(np.uint16) * 257
    for name in ("i16.png", "i16.tiff"):
        assert torch.equal(load(Image.fromarray(sixteen), tmp_path / name), expected)
    big_endian = Image.fromarray(sixteen.astype(">u2"))
    assert torch.equal(load(big_endian, tmp_path / "i16b.tiff"), expected)
    assert torch.equal(
        load(Image.fromarray(sixteen.astype(np.int32)), tmp_path / "i.tiff"), expected
    )
    bilevel = load(grey.convert("1"), tmp_path / "1.png", Framing(96, "long"))
    assert bilevel.amin() == -1
    assert bilevel.amax() == 1


def test_what_is_transparent_shows_white(tmp_path):
    solid = load(ramp(), tmp_path / "rgb.png")
    opaque = ramp().convert("RGBA")
    assert torch.equal(load(opaque, tmp_path / "opaque.png"), solid)
    clear = ramp().convert("RGBA")
    clear.putalpha(0)
    assert torch.equal(load(clear, tmp_path / "clear.png"), torch.ones_like(solid))
    half = Image.new("LA", (96, 64), (0, 128))
    shade = load(half, tmp_path / "la.png").unique()
    torch.testing.assert_close(shade, torch.tensor([127 / 127.5 - 1]))
    palette = ramp().quantize(16)
    first = palette.getpixel((48, 32))
    cut = load(palette, tmp_path / "p.png", transparency=first)
    assert (cut - load(palette, tmp_path / "q.png")).max() > 0
    assert cut.amax() == 1


def test_palettes_and_cmyk_keep_their_colours(tmp_path):
    solid = load(ramp(), tmp_path / "rgb.png")
    assert (load(ramp().quantize(256), tmp_path / "p.png") - solid).abs().mean() < 0.05
    for suffix, options in (("tiff", {}), ("jpg", {"quality": 95})):
        cmyk = load(ramp().convert("CMYK"), tmp_path / f"cmyk.{suffix}", **options)
        assert (cmyk - solid).abs().mean() < 0.05


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_an_animation_gives_its_first_frame(tmp_path, suffix):
    first, second = Image.new("RGB", (40, 40), "red"), Image.new("RGB", (40, 40), "blue")
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"a.{suffix}"
    image = load(first, path, save_all=True, append_images=[second], **options)
    red = torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1)
    assert torch.equal(image, red.expand_as(image))


# --- large images -------------------------------------------------------------------------------


def test_a_large_jpeg_is_decoded_small_with_the_same_geometry(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / "large.jpg"
    smooth = ramp(1203, 805).transpose(Image.Transpose.ROTATE_90)
    smooth.save(path, exif=exif, quality=98, subsampling=0)
    k = pinhole(900.0, 700.0, 350.0)
    whole = load_photograph(path, SQUARE, intrinsics=k)
    monkeypatch.setattr(photographs, "_DRAFT_LIMIT", 1000)
    decoded, full = photographs._read(path, 128)
    assert full == (805, 1203)
    assert decoded.size == (301, 202)
    draft = load_photograph(path, SQUARE, intrinsics=k)
    assert torch.equal(draft.intrinsics, whole.intrinsics)
    assert (draft.image - whole.image).abs().mean() < 0.01
    # The decoder's quarter-size image is never under twice what is asked for.
    assert min(photographs._read(path, 250)[0].size) >= 250


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("1", (15_000, 12_000)).save(path)
    with pytest.raises(Prob3rError, match=r"bomb\.png holds more than 150 megapixels"):
        load_photograph(path, SQUARE)
    small = tmp_path / "small.png"
    ramp().save(small)
    monkeypatch.setattr(photographs, "PIXEL_LIMIT", 96 * 64 - 1)
    with pytest.raises(Prob3rError, match="megapixels"):
        load_photograph(small, SQUARE)


def test_a_hundred_megapixels_work_without_a_warning(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (11_600, 8_700), 1).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_photograph(path, LONG).image.shape == (1, 3, 96, 128)


# --- bad input ----------------------------------------------------------------------------------


def one_sentence(error: pytest.ExceptionInfo, path: Path) -> bool:
    message = str(error.value)
    return str(path) in message and "\n" not in message and message.endswith(".")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("missing.jpg", None, "does not exist"),
        ("x" * 300, None, "cannot be read"),
        ("empty.jpg", b"", "is not an image"),
        ("text.jpg", b"these are no pixels", "is not an image"),
        ("pair.json", json.dumps({"views": []}).encode(), "is not an image"),
        ("drawing.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        ("header.png", b"\x89PNG\r\n\x1a\n", "is not an image"),
    ],
)
def test_files_that_are_no_images(tmp_path, name, content, complaint):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Prob3rError, match=complaint) as error:
        load_photograph(path, SQUARE)
    assert one_sentence(error, path)


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(Prob3rError, match="is not a file") as error:
        load_photograph(str(tmp_path), SQUARE)
    assert one_sentence(error, tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "gif", "bmp", "ppm"])
def test_a_damaged_image_of_any_format_is_one_sentence(tmp_path, suffix):
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"damaged.{suffix}"
    ramp().save(whole)
    content = whole.read_bytes()
    for cut in range(0, len(content) * 9 // 10, max(1, len(content) // 25)):
        path.write_bytes(content[:cut])
        with pytest.raises(Prob3rError) as error:
            load_photograph(path, SQUARE)
        assert one_sentence(error, path)


def test_damage_inside_an_image_loads_or_is_one_sentence(tmp_path):
    whole, path = tmp_path / "whole.png", tmp_path / "damaged.png"
    ramp().save(whole)
    generator = np.random.default_rng(0)
    for _ in range(40):
        content = np.frombuffer(whole.read_bytes(), dtype=np.uint8).copy()
        content[generator.integers(8, len(content), 5)] = generator.integers(0, 256, 5)
        path.write_bytes(content.tobytes())
        try:
            load_photograph(path, SQUARE)
        except Prob3rError as error:
            assert str(path) in str(error)  # noqa: PT017


def test_a_damaged_note_of_orientation_does_not_spoil_a_photograph(tmp_path):
    expected = load(ramp(), tmp_path / "a.png")
    for note in (b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0", b"Exif\0\0MM", b"Exif\0\0nonsense"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(load(ramp(), tmp_path / "b.png", exif=note), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (15, 15), (16, 15)])
def test_images_of_less_than_a_patch_are_refused(tmp_path, size):
    path = tmp_path / "small.png"
    Image.new("RGB", size).save(path)
    for framing in (SQUARE, LONG):
        with pytest.raises(Prob3rError, match="at least 16") as error:
            load_photograph(path, framing)
        assert one_sentence(error, path)


def test_elongated_images_are_refused_when_no_patch_would_be_left(tmp_path):
    path = tmp_path / "strip.png"
    Image.new("RGB", (20 * 8, 20)).save(path)
    assert load_photograph(path, LONG).image.shape == (1, 3, 16, 128)
    Image.new("RGB", (20 * 8 + 1, 20)).save(path)
    with pytest.raises(Prob3rError, match="at most 8 times the shorter"):
        load_photograph(path, LONG)


def test_pixels_of_32_bits_are_refused(tmp_path):
    for levels in (np.ones((32, 32), np.float32), np.full((32, 32), 70_000, np.int32)):
        with pytest.raises(Prob3rError, match="32-bit"):
            load(Image.fromarray(levels), tmp_path / "a.tiff")


def test_a_tiny_photograph_grows(tmp_path):
    image = load(ramp(24, 16), tmp_path / "a.png", LONG)
    assert image.shape == (1, 3, 80, 128)
    assert (image[0, 0].diff(dim=1) > -0.02).all()
