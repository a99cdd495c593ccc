"""What decides a camera: the effect of every patch of the photographs on its predicted pose.

The patches are those of the streams where the views first meet, at the start of the trunk. Each is
replaced by the mean token of its own view, and the effect on the camera is taken to first order
(see `prob3r.runs.attribution`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.io.files import to_json
from prob3r.measures.scalars import Rotation, Scalar, Translation
from prob3r.models import Model
from prob3r.models.protocol import layout_of, trunk
from prob3r.models.sites import Site
from prob3r.runs.attribution import TokenMean, one_run
from prob3r.scenes import Views

SCALARS: Mapping[str, Callable[[int], Scalar]] = {
    Rotation.name: Rotation,
    Translation.name: Translation,
}
"""The numbers of a camera whose effects are computed."""

MOST_CAMERAS = 8
"""The most cameras whose effects are computed, from view 2 on. Each takes two gradients."""


@dataclass(frozen=True)
class Influence:
    """The effect of every patch of all views on one number of one camera.

    Attributes:
        camera: The view whose camera it is.
        of: The name of the scalar, `rotation` or `translation`.
        unit: The unit of the effects.
        more: What a positive effect means, as a clause.
        value: The scalar of the run without changes.
        maps: The effects of the patches of each view, row by row.
    """

    camera: int
    of: str
    unit: str
    more: str
    value: float
    maps: tuple[Float[Tensor, " _n"], ...]

    @property
    def shares(self) -> list[float]:
        """The share of each view in the sum of the absolute effects of all patches."""
        sums = [float(effects.abs().sum()) for effects in self.maps]
        return [each / (sum(sums) or 1.0) for each in sums]

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, as JSON can hold them."""
        maps = [effects.tolist() for effects in self.maps]
        about = {"camera": self.camera, "of": self.of, "unit": self.unit, "value": self.value}
        return dict(to_json(about | {"shares": self.shares, "maps": maps}))


def meeting(model: Model, views: int) -> list[str]:
    """Return the first site of the trunk in each view."""
    first: dict[int, str] = {}
    for site in map(Site.parse, model.sites(views)):
        if site.stack == trunk(model).name:
            first.setdefault(site.view, str(site))
    return [first[view] for view in sorted(first)]


def influences(
    model: Model, views: Views, report: Callable[[float], None] = lambda share: None
) -> list[Influence]:
    """Return the effects of all patches on each camera but the first.

    The model runs once for all of them. A camera that is not turned has no axis of rotation, and a
    camera that PnP does not find has no pose; these effects are left out.

    Args:
        model: The model.
        views: One scene.
        report: Called with the share of the work that is done.
    """
    cameras = range(2, min(views.count, MOST_CAMERAS + 1) + 1)
    asked = [(camera, of) for camera in cameras for of in SCALARS]
    found = list[Influence]()
    with suppress(Prob3rError), _one_run(model, views) as ask:
        for i, (camera, of) in enumerate(asked):
            report(i / len(asked))
            with suppress(Prob3rError):
                found.append(ask(camera, of))
    return found


def influence(model: Model, views: Views, camera: int, of: str) -> Influence:
    """Return the effects of all patches on one number of one camera.

    Args:
        model: The model.
        views: One scene.
        camera: The view whose camera it is, not the first.
        of: One of `SCALARS`.

    Raises:
        Prob3rError: The camera is not found, has no such number, or no gradient reaches the views.
    """
    with _one_run(model, views) as ask:
        return ask(camera, of)


@contextmanager
def _one_run(model: Model, views: Views) -> Iterator[Callable[[int, str], Influence]]:
    """Run a model once, and yield a function that returns effects as `influence` does."""
    sites = meeting(model, views.count)
    with one_run(model, views, TokenMean(), kinds=["streams"], sites=sites) as attributed:

        def ask(camera: int, of: str) -> Influence:
            scalar = SCALARS[of](camera)
            result = attributed(scalar)
            maps = []
            for site in sites:
                effects = result.streams[site][0]
                maps.append(effects[layout_of(model, site).patches(len(effects))].float().cpu())
            value = float(result.value[0])
            return Influence(camera, scalar.name, scalar.unit, scalar.more, value, tuple(maps))

        yield ask
