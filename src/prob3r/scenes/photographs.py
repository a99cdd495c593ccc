"""Read photographs: open files safely, rotate them upright, and frame them for a model."""

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

PIXEL_LIMIT = 150_000_000  # images with more pixels are refused
FINE = 512  # approximate longer side, in pixels, of a `fine` photograph
_DRAFT_LIMIT = 32_000_000  # JPEGs with more pixels are decoded at a fraction of their size
# Formats that cameras and editors write. Pillow's other readers are old; one runs Ghostscript.
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")


class Photograph(NamedTuple):
    """A framed photograph as a batch of one, with its intrinsics and depth if they are known.

    `View` defines the fields.
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

    All images are converted to RGB: grey, 16-bit, palette and CMYK images, too. Transparent pixels
    become white. The first frame of an animation is used. The image is rotated by its EXIF
    orientation. A JPEG of more than 32 megapixels is decoded at a fraction of its size, but with at
    least twice the pixels along each side that are needed.

    Args:
        path: The image file.
        model: A model, whose configuration has the size, or a `Framing`.
        intrinsics: Intrinsics of the upright photograph at full size, in pixels.
        depth: Depth map of the upright photograph at full size; 0 where unknown.
        fine: Whether to return the photograph with more pixels as well; see `View.fine`.

    Raises:
        Prob3rError: The file is missing, not an image, damaged, has more than 150 megapixels, is
            smaller than a patch, or is so elongated that its shorter side would be shorter than a
            patch; or the depth map has another size.
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
    crop = framing.crop_of(full, intrinsics)
    framed_depth = None if depth is None else crop.nearest(depth)
    finer = round(FINE / max(crop.size)) if fine else 1
    return Photograph(
        image=crop.colours(photograph),
        intrinsics=None if intrinsics is None else crop.intrinsics(intrinsics),
        depth=framed_depth,
        valid=None if framed_depth is None else framed_depth > 0,
        fine=crop.colours(photograph, finer) if finer > 1 else None,
    )


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file, to be decoded inside the block.

    Raises:
        Prob3rError: The file is missing, is not an image, has too many pixels, or cannot be
            decoded. Errors inside the block are raised as Prob3rError, too.
    """
    Image.init()
    try:
        if not path.exists():
            raise Prob3rError(f"{path} does not exist; give the path of an image.")
        if not path.is_file():
            raise Prob3rError(f"{path} is not a file; give the path of an image.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about size, which is checked here, or metadata
            with Image.open(path, formats=[f for f in _FORMATS if f in Image.OPEN]) as image:
                if image.width * image.height > PIXEL_LIMIT:
                    raise Image.DecompressionBombError
                yield image
    except Prob3rError:
        raise
    except Image.DecompressionBombError as error:
        raise Prob3rError(
            f"{path} holds more than {PIXEL_LIMIT // 10**6} megapixels; resize it first."
        ) from error
    except UnidentifiedImageError as error:
        raise Prob3rError(
            f"{path} is not an image that can be read; give a JPEG, PNG, TIFF or WebP file."
        ) from error
    except Exception as error:  # Pillow's decoders raise many classes for a damaged file
        raise Prob3rError(f"{path} cannot be read ({error}); give a complete image.") from error


def _read(path: Path, enough: int) -> tuple[Image.Image, tuple[int, int]]:
    """Return an upright RGB photograph, and its height and width at full size.

    Args:
        path: The image file.
        enough: The shorter side is never decoded to fewer pixels than this.
    """
    with open_image(path) as image:
        width, height = image.size
        if width * height > _DRAFT_LIMIT:
            image.draft(None, (enough, enough))
        stored = image.size
        image.load()  # this already rotates TIFF images
        with suppress(Exception):  # damaged EXIF data fails in many ways, and is ignored
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
