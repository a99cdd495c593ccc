"""View: photographs that a model runs over, with their known cameras and depth."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import resize_intrinsics, unproject
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.photographs import load_photograph


@dataclass(frozen=True)
class View:
    """Photographs of one size, one for each scene of a batch, with known cameras and depth.

    Attributes:
        image: Colours in [-1, 1].
        intrinsics: Pinhole matrices in pixels, pixel centres at integer coordinates.
        cam_to_world: Camera poses, OpenCV axes, in the scene's unit of length.
        depth: Distance along the camera's z axis, in the scene's unit; 0 where unknown.
        valid: Mask of the pixels whose `depth` is reliable.
        labels: Number of the object that each pixel shows.
        fine: The same framed photographs with height and width multiplied by a whole number.
            Matchers use them; models do not.
    """

    image: Float[Tensor, "b 3 h w"]
    intrinsics: Float[Tensor, "b 3 3"] | None = None
    cam_to_world: Float[Tensor, "b 4 4"] | None = None
    depth: Float[Tensor, "b h w"] | None = None
    valid: Bool[Tensor, "b h w"] | None = None
    labels: Integer[Tensor, "b h w"] | None = None
    fine: Float[Tensor, "b 3 _h _w"] | None = None

    @classmethod
    def from_image(
        cls,
        image: str | Path,
        model: Framing | FramesImages,
        *,
        intrinsics: Float[Tensor, "1 3 3"] | None = None,
        cam_to_world: Float[Tensor, "1 4 4"] | None = None,
        depth: Float[Tensor, "fh fw"] | None = None,
        fine: bool = False,
    ) -> "View":
        """Return a photograph framed for a model, with its intrinsics and depth framed likewise.

        The arguments and errors are those of `load_photograph`.
        """
        framed, intrinsics, depth, valid, finer = load_photograph(
            image, model, intrinsics=intrinsics, depth=depth, fine=fine
        )
        return cls(framed, intrinsics, cam_to_world, depth, valid, fine=finer)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def points(self) -> Float[Tensor, "b h w 3"]:
        """The true pointmap in this camera's own frame; raises Prob3rError if it is unknown."""
        if self.depth is None or self.intrinsics is None:
            raise Prob3rError("This view has no true pointmap: it needs depth and intrinsics.")
        return unproject(self.depth, self.intrinsics)

    @property
    def known(self) -> Bool[Tensor, "b h w"]:
        """Mask of the pixels with reliable depth: `valid` if given, else positive depth.

        Raises:
            Prob3rError: There is neither a mask nor depth.
        """
        if self.valid is not None:
            return self.valid
        if self.depth is None:
            raise Prob3rError("This view has no valid mask: it needs depth or a mask.")
        return self.depth > 0

    def resized(self, size: tuple[int, int]) -> "View":
        """Return the view at another size, without `fine`.

        The image is filtered (bilinear, antialiased). Depth, masks and labels are those of the
        nearest pixel.

        Args:
            size: The new height and width, in pixels.
        """
        if size == self.size:
            return self

        rows, columns = (
            (2 * torch.arange(new, device=self.image.device) + 1) * old // (2 * new)
            for new, old in zip(size, self.size, strict=True)
        )

        def nearest(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[:, rows[:, None], columns]

        return View(
            F.interpolate(self.image, size, mode="bilinear", antialias=True),
            None
            if self.intrinsics is None
            else resize_intrinsics(self.intrinsics, self.size, size),
            self.cam_to_world,
            nearest(self.depth),
            nearest(self.valid),
            nearest(self.labels),
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> "View":
        """Return a view with `function` applied to every tensor that is not None."""
        known: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        mapped: dict[str, Any] = {k: t if t is None else function(t) for k, t in known.items()}
        return View(**mapped)
