"""Changes: what an edit does at one site of one model.

A change applies to `p` scenes of the batch and, at an attention site, to `j` heads. Several changes
at one site apply in the order of their `rank`. The order at an attention site is: a given map,
masked edges, zeroed edges, given outputs of heads. The order at a residual site is: a skipped
sublayer, a given stream, a function of the stream.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Change:
    """A change at one site.

    Attributes:
        site: The name of the site. The name of an attention site ends in `.probs`.
        rows: The indices of the scenes that change.
        rank: The place of this kind of change among several at one site.
    """

    site: str
    rows: Int[Tensor, " p"]

    rank: ClassVar[int]


@dataclass(frozen=True, eq=False)
class HeadChange(Change):
    """A change of an attention sublayer's heads."""

    heads: Int[Tensor, " j"]


class MapChange(HeadChange):
    """A change of the attention map, `(p, j, n, m)`."""

    @abstractmethod
    def apply(self, probs: Float[Tensor, "p j q m"], span: slice) -> Float[Tensor, "p j q m"]:
        """Return the changed rows of the map for the queries in `span`."""


@dataclass(frozen=True, eq=False)
class GivenMap(MapChange):
    """The map of some queries is replaced. An axis of size 1 stands for all."""

    rank = 0
    queries: Bool[Tensor, "p1 j1 n"]
    probs: Float[Tensor, "p2 j2 n2 m"]

    def apply(self, probs: Tensor, span: slice) -> Tensor:
        """Return the map with the chosen queries replaced."""
        queries = self.queries[..., span, None]
        return self.probs[:, :, _part(self.probs.shape[2], span)].where(queries, probs)


@dataclass(frozen=True, eq=False)
class CutEdges(MapChange):
    """Edges from some queries to some keys are cut. An axis of size 1 stands for all."""

    queries: Bool[Tensor, "p1 j1 n"]
    keys: Bool[Tensor, "p2 j2 m"]

    def edges(self, span: slice) -> Bool[Tensor, "p3 j3 q m"]:
        """Return which edges of the queries in `span` are cut."""
        return self.queries[..., span, None] & self.keys[..., None, :]


class MaskedEdges(CutEdges):
    """The logits of the edges become minus infinity. A query without any key attends to nothing."""

    rank = 1

    def apply(self, probs: Tensor, span: slice) -> Tensor:
        """Return the map without the edges. Each row sums to one again."""
        kept = probs.masked_fill(self.edges(span), 0)
        total = kept.sum(-1, keepdim=True)
        return kept / total.where(total > 0, 1)


class ZeroedEdges(CutEdges):
    """The probabilities of the edges become zero. The other probabilities stay as they are."""

    rank = 2

    def apply(self, probs: Tensor, span: slice) -> Tensor:
        """Return the map without the edges."""
        return probs.masked_fill(self.edges(span), 0)


@dataclass(frozen=True, eq=False)
class GivenOutput(HeadChange):
    """The outputs of heads are replaced at some patches. An axis of size 1 stands for all."""

    rank = 3
    patches: Bool[Tensor, "p1 j1 n"]
    values: Float[Tensor, "p2 j2 n2 e"]

    def apply(self, output: Float[Tensor, "p j n e"]) -> Float[Tensor, "p j n e"]:
        """Return the outputs with the chosen patches replaced."""
        return self.values.to(output.dtype).where(self.patches[..., None], output)


class StreamChange(Change):
    """A change of the residual stream after a sublayer."""

    @abstractmethod
    def apply(
        self, stream: Float[Tensor, "p n d"], before: Float[Tensor, "p n d"]
    ) -> Float[Tensor, "p n d"]:
        """Return the changed stream. `before` is the stream at the input of the sublayer."""


@dataclass(frozen=True, eq=False)
class Skipped(StreamChange):
    """The sublayer adds nothing at some patches."""

    rank = 4
    patches: Bool[Tensor, "p1 n"]

    def apply(self, stream: Tensor, before: Tensor) -> Tensor:
        """Return the stream with the chosen patches as they were before the sublayer."""
        return before.where(self.patches[..., None], stream)


@dataclass(frozen=True, eq=False)
class GivenStream(StreamChange):
    """The stream is replaced at some patches. An axis of size 1 stands for all."""

    rank = 5
    patches: Bool[Tensor, "p1 n"]
    values: Float[Tensor, "p2 n2 d2"]

    def apply(self, stream: Tensor, before: Tensor) -> Tensor:
        """Return the stream with the chosen patches replaced."""
        return self.values.to(stream.dtype).where(self.patches[..., None], stream)


@dataclass(frozen=True, eq=False)
class Recoded(StreamChange):
    """The stream is replaced by a function of itself at some patches."""

    rank = 6
    patches: Bool[Tensor, "p1 n"]
    function: Callable[[Tensor], Tensor]

    def apply(self, stream: Tensor, before: Tensor) -> Tensor:
        """Return the stream with the chosen patches replaced."""
        changed = self.function(stream).to(stream.dtype)
        return changed.where(self.patches[..., None], stream)


def _part(size: int, span: slice) -> slice:
    """Return the span, unless the axis has size 1 and stands for all."""
    return slice(None) if size == 1 else span
