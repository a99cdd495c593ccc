"""The input and the result of an attribution: a scalar, and the effect of every part on it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from prob3r.models.protocol import Prediction
from prob3r.models.sites import Site
from prob3r.scenes.views import Views

if TYPE_CHECKING:
    import pandas as pd

Measure = Callable[[Prediction], Float[Tensor, " b"]]
"""A scalar of a run, one value for each scene. A batch may hold the scenes several times."""

Scalar = Callable[[Views, Prediction], Measure]
"""Makes a measure from the scenes and the model's output for them without any change."""

Effects = Mapping[str, Float[Tensor, "b ..."]]


@dataclass(frozen=True)
class Part:
    """One part of a model and its effect in one scene.

    Attributes:
        site: The residual site of its sublayer.
        head: The number of the head, or None for the whole sublayer.
        effect: By how much the scalar changes when the part is replaced, to first order.
    """

    site: str
    head: int | None
    effect: float

    @property
    def words(self) -> str:
        """The name of the part: `dec2.3.cross_attn head 4`."""
        return self.site if self.head is None else f"{self.site} head {self.head}"


@dataclass(frozen=True)
class Attribution:
    """The first-order effect of every part on a scalar: by how much replacing the part changes it.

    A kind that was not asked for, or for which the baseline has no values, is empty.

    Attributes:
        value: The scalar of the run itself, one value for each scene.
        baseline: What replaces a part, in words.
        steps: The number of points on the path over which gradients are averaged. 1 means the
            gradient of the run itself.
        sublayers: By residual site, the effect of what the sublayer adds to each token, `(b, n)`.
        heads: By attention site, such as `dec2.3.cross_attn.heads`, the effect of the output of
            each head at each token, `(b, k, n)`.
        streams: By residual site, the effect of each token of the whole stream, `(b, n)`.
        edges: By attention site, such as `dec2.3.cross_attn.edges`, the effect of each head's
            attention to each view, summed over the queries and over the view's keys, `(b, k, v)`.
            The views are in the order of `Site.key_views`.
        maps: By attention site, such as `dec2.3.cross_attn.probs`, the effect of every pair of a
            query and a key, `(b, k, n, m)`.
    """

    value: Float[Tensor, " b"]
    baseline: str
    steps: int = 1
    sublayers: Effects = field(default_factory=dict)
    heads: Effects = field(default_factory=dict)
    streams: Effects = field(default_factory=dict)
    edges: Effects = field(default_factory=dict)
    maps: Effects = field(default_factory=dict)

    def parts(self, scene: int = 0) -> list[Part]:
        """Return every sublayer and every head with its effect in one scene."""
        found = [
            Part(site, None, float(effect[scene].sum())) for site, effect in self.sublayers.items()
        ]
        for site, effect in self.heads.items():
            sublayer = str(Site.parse(site).residual)
            each = effect[scene].sum(-1).tolist()
            found += [Part(sublayer, head, value) for head, value in enumerate(each)]
        return found

    def top(self, count: int = 10, scene: int = 0) -> list[Part]:
        """Return the sublayers and heads with the largest effects of either sign."""
        return sorted(self.parts(scene), key=lambda part: -abs(part.effect))[:count]

    def table(self) -> "pd.DataFrame":
        """Return a row for each scene, sublayer and head: `scene`, `site`, `head`, `effect`."""
        import pandas as pd  # takes long, and `import prob3r` should not

        return pd.DataFrame(
            [
                {"scene": scene, "site": part.site, "head": part.head, "effect": part.effect}
                for scene in range(len(self.value))
                for part in self.parts(scene)
            ]
        ).astype({"head": "Int64"})
