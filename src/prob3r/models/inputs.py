"""Checks of the input images of a model."""

from collections.abc import Sequence

from torch import Tensor

from prob3r.errors import Prob3rError


def common_size(images: Sequence[Tensor], patch: int, architecture: str) -> tuple[int, int]:
    """Return the height and width of all images.

    Args:
        images: One batch a view.
        patch: Side of a patch, in pixels.
        architecture: Name of the architecture, for messages.

    Raises:
        Prob3rError: There is no image, views differ in size, or a side is not a multiple of the
            patch size.
    """
    if not images:
        raise Prob3rError(f"There is no image; a {architecture} takes one view or more.")
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    named = [f"{height}x{width}" for height, width in sizes]
    if len({*sizes}) > 1:
        raise Prob3rError(
            f"Views are {', '.join(named)} pixels; a {architecture} takes one size at once."
        )
    if any(side % patch for side in sizes[0]):
        raise Prob3rError(f"Images are {named[0]} pixels; both sides must be multiples of {patch}.")
    return sizes[0]
