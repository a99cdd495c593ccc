"""Changes: what edits come down to at one site, once they have been held against a model.

A change concerns some scenes of the batch (`p` of them) and, at an attention site, some heads
(`j`). At one site they apply by rank: a given map, masked edges, zeroed edges, heads' outputs; and
at a residual site, a sublayer skipped, then a stream transplanted.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Change:
    """What is done at one site.

    Attributes:
        site: Its name; that of an attention site ends in `.probs`.
        rows: The scenes concerned.
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
        """Return the map's rows of the queries in `span`."""


@dataclass(frozen=True, eq=False)
class GivenMap(MapChange):
    """The map is replaced for some queries; axes of size 1 stand for all."""

    rank = 0
    queries: Bool[Tensor, "p1 j1 n"]
    probs: Float[Tensor, "p2 j2 n2 m"]

    def apply(self, probs: Tensor, span: slice) -> Tensor:
        """Return the given map where it counts."""
        queries = self.queries[..., span, None]
        return self.probs[:, :, _part(self.probs.shape[2], span)].where(queries, probs)


@dataclass(frozen=True, eq=False)
class CutEdges(MapChange):
    """Edges from some queries to some keys are cut; axes of size 1 stand for all."""

    queries: Bool[Tensor, "p1 j1 n"]
    keys: Bool[Tensor, "p2 j2 m"]

    def edges(self, span: slice) -> Bool[Tensor, "p3 j3 q m"]:
        """Return which edges are cut, of the queries in `span`."""
        return self.queries[..., span, None] & self.keys[..., None, :]


class MaskedEdges(CutEdges):
    """Logits to minus infinity; a query that keeps no key attends to nothing."""

    rank = 1

    def apply(self, probs: Tensor, span: slice) -> Tensor:
        """Return the map without the edges, each row summing to one again."""
        kept = probs.masked_fill(self.edges(span), 0)
        total = kept.sum(-1, keepdim=True)
        return kept / total.where(total > 0, 1)


class ZeroedEdges(CutEdges):
    """Probabilities to zero; the rest stays as it is."""

    rank = 2

    def apply(self, probs: Tensor, span: slice) -> Tensor:
        """Return the map without the edges."""
        return probs.masked_fill(self.edges(span), 0)


@dataclass(frozen=True, eq=False)
class GivenOutput(HeadChange):
    """The heads' outputs are replaced at some patches; axes of size 1 stand for all."""

    rank = 3
    patches: Bool[Tensor, "p1 j1 n"]
    values: Float[Tensor, "p2 j2 n2 e"]

    def apply(self, output: Float[Tensor, "p j n e"]) -> Float[Tensor, "p j n e"]:
        """Return the outputs of the heads concerned."""
        return self.values.to(output.dtype).where(self.patches[..., None], output)


class StreamChange(Change):
    """A change of the residual stream after a sublayer."""

    @abstractmethod
    def apply(
        self, stream: Float[Tensor, "p n d"], before: Float[Tensor, "p n d"]
    ) -> Float[Tensor, "p n d"]:
        """Return the stream, given what it was before the sublayer."""


@dataclass(frozen=True, eq=False)
class Skipped(StreamChange):
    """The sublayer adds nothing at some patches."""

    rank = 4
    patches: Bool[Tensor, "p1 n"]

    def apply(self, stream: Tensor, before: Tensor) -> Tensor:
        """Return the stream as it was before the sublayer, where it is skipped."""
        return before.where(self.patches[..., None], stream)


@dataclass(frozen=True, eq=False)
class GivenStream(StreamChange):
    """The stream is replaced at some patches."""

    rank = 5
    patches: Bool[Tensor, "p1 n"]
    values: Float[Tensor, "p2 n d"]

    def apply(self, stream: Tensor, before: Tensor) -> Tensor:
        """Return the given stream where it counts."""
        return self.values.to(stream.dtype).where(self.patches[..., None], stream)


def _part(size: int, span: slice) -> slice:
    """Return the span, unless the axis has size 1 and stands for all."""
    return slice(None) if size == 1 else span
