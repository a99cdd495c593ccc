"""What a two-view model must offer for prob3r to look inside it."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from prob3r.models.dust3r import Output
from prob3r.models.sites import Tap


@runtime_checkable
class Shape(Protocol):
    """What tracing needs to know of a model's configuration."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that the model was made for, in pixels."""

    @property
    def patch(self) -> int:
        """Side of a square patch, in pixels."""

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON can hold it; it is part of the fingerprint."""


@runtime_checkable
class TwoViewModel(Protocol):
    """A model that turns two views into two pointmaps, and shows a tap its sites on the way.

    prob3r's own models are of this kind; `Adapter` makes others so. Traces, edits, sweeps and
    probes ask nothing more of a model.
    """

    @property
    def config(self) -> Shape:
        """The model's configuration."""

    def __call__(self, images1: Tensor, images2: Tensor, tap: Tap | None = None) -> Output:
        """Return the pointmaps and confidences of a batch of pairs.

        Args:
            images1: View 1, the reference, `(b, 3, h, w)`, colours in [-1, 1].
            images2: View 2.
            tap: Called once at every site, to read or to edit.
        """

    def sites(self) -> list[str]:
        """Return the names of all residual sites."""

    def attention_sites(self) -> list[str]:
        """Return the names of all attention sites, which end in `.probs`."""

    def width(self, site: str) -> int:
        """Return the width of the residual stream that a site belongs to."""

    def heads(self, site: str) -> int:
        """Return the number of heads of a site's sublayer; they share its width evenly."""

    def extra_tokens(self, stack: str) -> int:
        """Return how many tokens a stack such as `dec2` has after its patches."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the weights, all on one device."""

    def state_dict(self) -> dict[str, Any]:
        """Return the weights by name."""
