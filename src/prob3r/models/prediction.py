"""What a multi-view model returns."""

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError


class Cameras(NamedTuple):
    """The predicted cameras of all views.

    Attributes:
        cam_to_world: Poses in camera 1's frame, OpenCV axes, in the unit of the points.
        intrinsics: Pinhole matrices in pixels, pixel centres at integer coordinates.
    """

    cam_to_world: Float[Tensor, "b v 4 4"]
    intrinsics: Float[Tensor, "b v 3 3"] | None = None


class NoPointmaps(tuple[Any, ...]):
    """Placeholder for the pointmaps of a model without any; access to it raises Prob3rError."""

    def __iter__(self) -> NoReturn:
        raise Prob3rError(
            "This model predicts no pointmaps, and they are needed here; take a model that does, "
            "or decode its sites with a probe bank."
        )

    def __getitem__(self, index: object) -> NoReturn:
        iter(self)


NO_POINTMAPS = NoPointmaps()


class Prediction(NamedTuple):
    """The prediction of a model for a batch of scenes. Tuples have one tensor for each view.

    If a model predicts no pointmaps, `points` and `confidence` are `NO_POINTMAPS`. Other fields
    that a model does not predict are None.

    Attributes:
        points: Pointmaps `(b, h, w, 3)` in camera 1's frame, up to scale.
        confidence: Confidences of the points, `(b, h, w)`.
        cameras: Poses and intrinsics of all cameras.
        depth: Depth along the camera's z axis, `(b, h, w)`, in the unit of the points.
        depth_confidence: Confidences of the depth, `(b, h, w)`.
        local_points: Pointmaps `(b, h, w, 3)` in each view's own camera frame.
        descriptors: Features for matching, `(b, h, w, c)`.
        descriptor_confidence: Confidences of the descriptors, `(b, h, w)`.
        patches: Completed patches, `(b, n, p * p * 3)`: rows, columns, then channels of a patch.
    """

    points: tuple[Float[Tensor, "b _h _w 3"], ...]
    confidence: tuple[Float[Tensor, "b _h _w"], ...]
    cameras: Cameras | None = None
    depth: tuple[Tensor, ...] | None = None
    depth_confidence: tuple[Tensor, ...] | None = None
    local_points: tuple[Tensor, ...] | None = None
    descriptors: tuple[Tensor, ...] | None = None
    descriptor_confidence: tuple[Tensor, ...] | None = None
    patches: tuple[Tensor, ...] | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Prediction":
        """Return a prediction with `function` applied to every tensor."""
        mapped: dict[str, Any] = {}
        for name, part in self._asdict().items():
            if part is None or isinstance(part, NoPointmaps):
                mapped[name] = part
                continue
            tensors = [t if t is None else function(t) for t in part]
            mapped[name] = Cameras._make(tensors) if name == "cameras" else tuple(tensors)
        return Prediction(**mapped)
