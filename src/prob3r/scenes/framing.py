"""Framing: how a photograph of any size is resized and cropped for a model."""

from dataclasses import dataclass
from math import ceil
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import crop_intrinsics, resize_intrinsics

_SQUARE_BELOW = 512  # models for squares smaller than this get square crops, as in DUSt3R


@runtime_checkable
class _Config(Protocol):
    @property
    def image_size(self) -> tuple[int, int]: ...
    @property
    def patch(self) -> int: ...


@runtime_checkable
class FramesImages(Protocol):
    """A model whose configuration has an image size and a patch size."""

    @property
    def config(self) -> _Config:
        """The model's configuration."""


class Crop(NamedTuple):
    """The part of a photograph that a framed image shows.

    Attributes:
        full: Height and width of the photograph, in pixels.
        resized: Height and width of the photograph after the resize, in pixels.
        top, left: Row and column of the first pixel of the crop in the resized photograph.
        size: Height and width of the crop, in pixels.
    """

    full: tuple[int, int]
    resized: tuple[int, int]
    top: int
    left: int
    size: tuple[int, int]

    def colours(self, photograph: Image.Image, finer: int = 1) -> Float[Tensor, "1 3 _h _w"]:
        """Return the framed colours, in [-1, 1], of an RGB photograph at any resolution.

        The filter is Lanczos if the photograph is made smaller, and bicubic otherwise.

        Args:
            photograph: The photograph.
            finer: Factor of the height and the width of the result, relative to `size`.
        """
        shrinks = finer * max(self.resized) < max(self.full)
        resample = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
        y, x = photograph.height / self.resized[0], photograph.width / self.resized[1]
        height, width = self.size
        box = (self.left * x, self.top * y, (self.left + width) * x, (self.top + height) * y)
        framed = np.array(photograph.resize((finer * width, finer * height), resample, box))
        return torch.from_numpy(framed).permute(2, 0, 1)[None].float() / 127.5 - 1

    def intrinsics(self, full: Float[Tensor, "1 3 3"]) -> Float[Tensor, "1 3 3"]:
        """Return the intrinsics of the framed image from those of the photograph, in pixels."""
        resized = resize_intrinsics(full, self.full, self.resized)
        return crop_intrinsics(resized, float(self.left), float(self.top))

    def to_photograph(self, pixels: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Map pixel positions (x, y) in the framed image to positions in the photograph."""
        offset, stretch = self._map(pixels)
        return (pixels + offset + 0.5) / stretch - 0.5

    def from_photograph(self, pixels: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Map pixel positions (x, y) in the photograph to positions in the framed image."""
        offset, stretch = self._map(pixels)
        return (pixels + 0.5) * stretch - 0.5 - offset

    def _map(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first pixel (x, y) of the crop, and the factors of the resize in x and y."""
        stretch = [new / old for new, old in zip(self.resized, self.full, strict=True)]
        return like.new_tensor([self.left, self.top]), like.new_tensor(stretch[::-1])

    def nearest(self, full: Shaped[Tensor, "fh fw"]) -> Shaped[Tensor, "1 h w"]:
        """Frame a map of the photograph, such as depth, by the nearest pixel."""
        rows, columns = (
            ((torch.arange(start, start + kept) + 0.5) * side / resized).long().clamp(max=side - 1)
            for side, resized, start, kept in zip(
                self.full, self.resized, (self.top, self.left), self.size, strict=True
            )
        )
        return full[None, rows[:, None], columns]


@dataclass(frozen=True)
class Framing:
    """How photographs are resized and cropped for a model.

    Both ways of cropping are DUSt3R's. The resize keeps the aspect ratio of the photograph, except
    for rounding to whole pixels.

    Attributes:
        size: Side of the square, or the longer side, in pixels; a multiple of `patch`.
        crop: `square` resizes the shorter side to `size` and crops to a square. `long` resizes the
            longer side to `size` and crops to the largest size with multiples of `patch` on both
            sides; a square photograph is cropped to 4:3.
        patch: Side of the model's patches, in pixels.

    Raises:
        Prob3rError: The size is not a positive multiple of the patch.
    """

    size: int
    crop: Literal["square", "long"]
    patch: int = 16

    def __post_init__(self) -> None:
        if self.patch < 1 or self.size < self.patch or self.size % self.patch:
            raise Prob3rError(
                f"A framing's size is {self.size}; "
                f"it must be a positive multiple of the patch, {self.patch}."
            )

    @classmethod
    def of(cls, model: "Framing | FramesImages") -> "Framing":
        """Return the framing for a model; a `Framing` is returned unchanged.

        A model for squares smaller than 512 pixels gets `square`, as DUSt3R's models for 224
        pixels. Any other model gets `long`, as DUSt3R's models for 512 pixels, which were trained
        on several aspect ratios.
        """
        if isinstance(model, Framing):
            return model
        height, width = model.config.image_size
        crop: Literal["square", "long"] = "square" if height == width < _SQUARE_BELOW else "long"
        return cls(max(height, width), crop, model.config.patch)

    def fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size to which views of another size are resized for the model, uncropped.

        The longer side becomes `size`. The other side keeps the aspect ratio, but for rounding to a
        multiple of `patch`.

        Args:
            size: Height and width of the views, in pixels.
        """
        patches = self.size / self.patch / max(size)
        height, width = (self.patch * max(1, round(side * patches)) for side in size)
        return height, width

    def crop_of(
        self, full: tuple[int, int], intrinsics: Float[Tensor, "1 3 3"] | None = None
    ) -> Crop:
        """Return the crop for a photograph.

        Without intrinsics, the crop is centred on the photograph. With intrinsics, it is as close
        to being centred on the principal point as the photograph allows, because models are
        trained with central principal points.

        Args:
            full: Height and width of the photograph, in pixels.
            intrinsics: Intrinsics of the photograph, in pixels.
        """
        reference = min(full) if self.crop == "square" else max(full)
        height, width = (round(side * self.size / reference) for side in full)
        if self.crop == "square":
            kept = (self.size, self.size)
        else:
            tallest = 3 * height // 4 if height == width else height
            kept = (tallest // self.patch * self.patch, width // self.patch * self.patch)
        if intrinsics is None:
            x, y = (width - 1) / 2, (height - 1) / 2
        else:
            x, y = resize_intrinsics(intrinsics, full, (height, width))[0, :2, 2].tolist()
        top, left = _start(y, kept[0], height), _start(x, kept[1], width)
        return Crop(full, (height, width), top, left, kept)


def _start(centre: float, kept: int, side: int) -> int:
    """Return the first of `kept` pixels around a centre, clamped to the side."""
    nearest = ceil(round(centre - kept / 2, 3))  # rounded, so that float errors decide no tie
    return min(max(nearest, 0), side - kept)
