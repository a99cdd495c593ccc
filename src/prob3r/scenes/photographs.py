"""Photographs: opened safely, turned upright, and framed as a model expects them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.scenes.framing import FramesImages, Framing

PIXEL_LIMIT = 150_000_000  # above this a file is refused, whatever its size on disk
FINE = 512  # pixels along the longer side, about which a framed photograph has for matching
_DRAFT_LIMIT = 32_000_000  # above this a JPEG is decoded at a fraction of its size
# What cameras and editors write. Pillow's other readers are old, and one runs Ghostscript.
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")


class Photograph(NamedTuple):
    """A framed photograph, as a batch of one, with what is known of its camera and its scene.

    The fields are those of `View`, which says what they mean.
    """

    image: Float[Tensor, "1 3 h w"]
    intrinsics: Float[Tensor, "1 3 3"] | None
    depth: Float[Tensor, "1 h w"] | None
    valid: Bool[Tensor, "1 h w"] | None
    fine: Float[Tensor, "1 3 _h _w"] | None


def load_photograph(
    path: str | Path,
    model: Framing | FramesImages,
    *,
    intrinsics: Float[Tensor, "1 3 3"] | None = None,
    depth: Float[Tensor, "fh fw"] | None = None,
    fine: bool = False,
) -> Photograph:
    """Read a photograph and frame it for a model.

    Every kind of image becomes RGB. Grey, 16-bit, palette and CMYK images are converted.
    Transparent pixels become white, as in a browser. An animation gives its first frame. The image
    is turned upright by its EXIF orientation. A JPEG of more than 32 megapixels is decoded at a
    fraction of its size, never less than twice what is needed.

    Args:
        path: The image file.
        model: A model, whose configuration names the size, or a `Framing`.
        intrinsics: Of the upright photograph at full size, in pixels.
        depth: Of the upright photograph at full size; 0 where unknown.
        fine: Whether to frame it with more pixels, too.

    Raises:
        Prob3rError: The file is missing or no image, damaged, of more than 150 megapixels, less
            than a patch wide or high, or so elongated that nothing would be left of its shorter
            side; or the depth is of another size.
    """
    path, framing = Path(path), Framing.of(model)
    photograph, full = _read(path, max(2 * framing.size, FINE if fine else 0))
    if min(full) < framing.patch or min(full) * framing.size < framing.patch * max(full):
        raise Prob3rError(
            f"{path} is {full[1]}x{full[0]} pixels; both sides must have at least {framing.patch}, "
            f"and the longer at most {framing.size // framing.patch} times the shorter."
        )
    if depth is not None and depth.shape != full:
        raise Prob3rError(
            f"{path} is {full[1]}x{full[0]} pixels but its depth is "
            f"{depth.shape[1]}x{depth.shape[0]}; they must be of one size."
        )
    window = framing.window(full, intrinsics)
    framed_depth = None if depth is None else window.nearest(depth)
    finer = round(FINE / max(window.size)) if fine else 1
    return Photograph(
        image=window.colours(photograph),
        intrinsics=None if intrinsics is None else window.intrinsics(intrinsics),
        depth=framed_depth,
        valid=None if framed_depth is None else framed_depth > 0,
        fine=window.colours(photograph, finer) if finer > 1 else None,
    )


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file, to be decoded inside the block.

    Raises:
        Prob3rError: The file is missing or no image, of too many pixels, or fails to decode.
    """
    Image.init()
    try:
        if not path.exists():
            raise Prob3rError(f"{path} does not exist; give the path of an image.")
        if not path.is_file():
            raise Prob3rError(f"{path} is not a file; give the path of an image.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of size, which is checked here, or of stray notes
            with Image.open(path, formats=[f for f in _FORMATS if f in Image.OPEN]) as image:
                if image.width * image.height > PIXEL_LIMIT:
                    raise Image.DecompressionBombError
                yield image
    except Prob3rError:
        raise
    except Image.DecompressionBombError as error:
        raise Prob3rError(
            f"{path} holds more than {PIXEL_LIMIT // 10**6} megapixels; shrink it first."
        ) from error
    except UnidentifiedImageError as error:
        raise Prob3rError(
            f"{path} is not an image that can be read; give a JPEG, PNG, TIFF or WebP file."
        ) from error
    except Exception as error:  # Pillow's decoders raise many classes for a damaged file
        raise Prob3rError(f"{path} cannot be read ({error}); give a complete image.") from error


def _read(path: Path, enough: int) -> tuple[Image.Image, tuple[int, int]]:
    """Return an upright RGB photograph, and its height and width before it was decoded smaller.

    Args:
        path: The image file.
        enough: Pixels along the shorter side below which it is never decoded smaller.
    """
    with open_image(path) as image:
        width, height = image.size
        if width * height > _DRAFT_LIMIT:
            image.draft(None, (enough, enough))
        stored = image.size
        image.load()  # which already turns TIFF images
        with suppress(Exception):  # a damaged EXIF note fails in many ways, and is as good as none
            ImageOps.exif_transpose(image, in_place=True)
        turned = image.size != stored
        return _rgb(path, image), (width, height) if turned else (height, width)


def _rgb(path: Path, image: Image.Image) -> Image.Image:
    """Return a decoded image of any mode as RGB."""
    if image.mode[0] in "IF":
        levels = np.asarray(image)
        if image.mode == "F" or levels.min() < 0 or levels.max() >= 2**16:
            raise Prob3rError(f"{path} holds 32-bit pixels; save it with 8 or 16 bits a channel.")
        image = Image.fromarray((levels >> 8).astype(np.uint8))
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")
