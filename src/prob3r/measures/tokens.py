"""Tokens that could carry what belongs to no patch, and random ones of the same weight.

Definitions, with their constants fixed before any result:

- A *sink* of a head is a key that takes more than `SINK` times its uniform share of the head's
  attention, averaged over queries and pairs. As it is averaged over pairs, it is a place.
- A *register-like token* of a pair is one whose residual stream, at the output of at least one
  decoder block, has a norm of more than `DEVIATIONS` robust standard deviations (1.4826 times the
  median absolute deviation) over the median of its view's tokens (after Darcet et al., Vision
  Transformers Need Registers, ICLR 2024, who go by the norm). In view 2's decoder it is also one
  that takes more than `SINK` times its uniform share of a self-attention in that very pair,
  averaged over its heads.
- *Extra tokens* are those of the architecture that stand for no patch, such as a camera token.
- The *carriers* of a view are all of them together. A sink of view 2's self-attention is a token
  of view 2, one of its cross-attention is a token of view 1.

Controls are drawn for each pair from its tokens that are no carriers, in an order that depends on
the pair's name alone: the first so many as there are carriers (`count`); and the first that hold
together at least as much of the attention received in that pair as the carriers do (`mass`), one
by one until it is reached. Where too few tokens are left, all of them are taken.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import median
from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.models.sites import Site
from prob3r.runs.trace import Trace, trace
from prob3r.scenes.sampling import sample
from prob3r.scenes.source import Pairs, batches
from prob3r.scenes.views import Pair

SINK = 5.0  # times its uniform share of attention
DEVIATIONS = 3.0  # robust standard deviations
_NORMAL = 1.4826  # standard deviations to a median absolute deviation, if normal

_SELF = "dec2.*.self_attn.received"
_CROSS = "dec2.*.cross_attn.received"
_BACK = "dec1.*.cross_attn.received"
READ = (_SELF, _CROSS, _BACK, "dec?.*.mlp")
"""What `Carriers` and their controls need of a run."""

CHOSEN, COUNT, MASS = CUTS = ("chosen", "count", "mass")
"""What is cut: the tokens in question, or one of their two controls."""


def is_sink(received: Float[Tensor, "*b m"]) -> Bool[Tensor, "*b m"]:
    """Return which keys take more than `SINK` times their uniform share of attention."""
    return received > SINK / received.shape[-1]


def is_outlier(norms: Float[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    """Return which tokens' norms are more than `DEVIATIONS` over the median of their row."""
    over = norms - median(norms)[:, None]
    return over > DEVIATIONS * _NORMAL * median(over.abs())[:, None]


@dataclass(frozen=True)
class Sinks:
    """The sinks of view 2's heads.

    Attributes:
        received: Mean attention on every key over queries and pairs, by sublayer.
    """

    received: Mapping[str, Float[Tensor, "k m"]]

    @classmethod
    def find(cls, model: Model, pairs: Pairs, count: int, batch: int) -> "Sinks":
        """Return the sinks over a sample of the pairs.

        Raises:
            Prob3rError: There are no pairs, or they are of several sizes, so that places mean
                nothing.
        """
        device, total, seen = next(model.parameters()).device, dict[str, Tensor](), 0
        for pair in batches(sample(pairs, count), count, batch):
            run = trace(model, pair.to(device), (_SELF, _CROSS), output=False)
            for name, received in run.items():
                site, added = name.removesuffix(".received"), received.sum(0)
                if total.setdefault(site, torch.zeros_like(added)).shape != added.shape:
                    raise several_sizes()
                total[site] += added
            seen += len(pair)
        if not seen:
            raise Prob3rError("There are no pairs to find sinks over; give at least one.")
        return cls({site: received / seen for site, received in total.items()})

    @property
    def found(self) -> dict[str, Bool[Tensor, "k m"]]:
        """Which keys are sinks."""
        return {site: is_sink(received) for site, received in self.received.items()}

    @property
    def strongest(self) -> dict[str, Bool[Tensor, "k m"]]:
        """The key of every head that takes the most, sink or not."""
        return {
            site: torch.nn.functional.one_hot(received.argmax(-1), received.shape[-1]).bool()
            for site, received in self.received.items()
        }

    def __bool__(self) -> bool:
        """Return whether the model has any."""
        return any(bool(keys.any()) for keys in self.found.values())


class Carriers(NamedTuple):
    """The carriers of both views.

    Attributes:
        view1: Among the tokens that view 2's cross-attention looks at.
        view2: Among the tokens of view 2's decoder.
    """

    view1: Bool[Tensor, "b m"]
    view2: Bool[Tensor, "b n"]

    @classmethod
    def of(cls, model: Model, run: Trace, sinks: Sinks) -> "Carriers":
        """Return the carriers of a batch, given a run with `READ` recorded.

        Raises:
            Prob3rError: The pairs are of another size than those of the sinks.
        """
        view1, view2 = (_marked(model, run, sinks, view) for view in (1, 2))
        for name, received in run.items():
            place = Site.parse(name)
            if (place.view, place.sublayer, place.reading) == (2, "self_attn", "received"):
                view2 |= is_sink(received.mean(1))
        return cls(view1, view2)


def _marked(model: Model, run: Trace, sinks: Sinks, view: int) -> Bool[Tensor, "b n"]:
    """Return a view's sinks, outliers of norm, and extra tokens."""
    kind, stack = "cross_attn" if view == 1 else "self_attn", f"dec{view}"
    norms = [
        run[name].norm(dim=-1)
        for name in run
        if name.startswith(f"{stack}.") and name.endswith(".mlp")
    ]
    marked = torch.stack([is_outlier(norm) for norm in norms]).any(0)
    for site, keys in sinks.found.items():
        if site.endswith(kind):
            if keys.shape[-1] != marked.shape[-1]:
                raise several_sizes()
            marked |= keys.any(0).to(marked.device)
    extra = len(trunk(model).layout(view).special)
    marked[:, marked.shape[1] - extra :] = True
    return marked


def received_by(run: Trace, view: int) -> Float[Tensor, "b n"]:
    """Return the mean attention that a view's tokens receive from view 2's decoder, or in it.

    Tokens of view 1 are seen by view 2's cross-attention; tokens of view 2 by its self-attention
    and by view 1's cross-attention.
    """
    ends = {1: [("dec2.", ".cross_attn")], 2: [("dec2.", ".self_attn"), ("dec1.", ".cross_attn")]}
    return torch.stack(
        [
            received.mean(1)
            for name, received in run.items()
            for first, last in ends[view]
            if name.startswith(first) and name.endswith(f"{last}.received")
        ]
    ).mean(0)


def random_order(pair: Pair, salt: str, shape: tuple[int, ...]) -> Float[Tensor, "b *k m"]:
    """Return a random number for each token of every pair, which the pair's name decides."""
    names = pair.names or tuple(str(row) for row in range(len(pair)))
    generator = torch.Generator()
    rows = []
    for name in names:
        generator.manual_seed(zlib.crc32(f"{name} {salt}".encode()))
        rows.append(torch.rand(shape, generator=generator))
    return torch.stack(rows).to(pair.view1.image.device)


def with_controls(
    chosen: Bool[Tensor, "b *k m"],
    free: Bool[Tensor, "b *k m"],
    received: Float[Tensor, "b *k m"],
    order: Float[Tensor, "b *k m"],
) -> dict[str, Bool[Tensor, "b *k m"]]:
    """Return chosen tokens and their two controls, under the names `CUTS`.

    Args:
        chosen: What the controls stand against.
        free: What they may be drawn from.
        received: The attention on every token.
        order: Random numbers, by which the free tokens are ordered.
    """
    free = free & ~chosen
    place = order.masked_fill(~free, torch.inf).argsort(-1)
    free_first, weight = free.gather(-1, place), received.gather(-1, place)
    wanted = chosen.sum(-1, keepdim=True)
    in_count = free_first & (torch.arange(chosen.shape[-1], device=chosen.device) < wanted)
    # A token is taken as long as those before it do not hold enough.
    before = torch.nn.functional.pad(weight.cumsum(-1)[..., :-1], (1, 0))
    in_mass = free_first & (before < (received * chosen).sum(-1, keepdim=True))
    nothing = torch.zeros_like(chosen)
    return {
        CHOSEN: chosen,
        COUNT: nothing.scatter(-1, place, in_count),
        MASS: nothing.scatter(-1, place, in_mass),
    }


def several_sizes() -> Prob3rError:
    """Return the error that tokens cannot be told by their place."""
    return Prob3rError(
        "Pairs are of several sizes, and tokens are told apart by their place; give pairs of one "
        "size."
    )
