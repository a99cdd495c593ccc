"""Sites: the places in a model where a tensor can be read or edited.

A residual site is the residual stream of one view after one sublayer, `dec2.3.cross_attn`; an
attention site is the attention of one sublayer, `dec2.3.cross_attn.probs`. Views count from 1,
blocks from 0. Patterns are shell-style: `dec2.*.cross_attn`. Only `Site` takes a name apart.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError

ATTENTION = ("self_attn", "cross_attn", "global_attn")
BETWEEN_VIEWS = ("cross_attn", "global_attn")
SUBLAYERS = ("embed", *ATTENTION, "mlp", "global_mlp", "modulation")
PROBS = "probs"
"""The reading of an attention sublayer that is its map."""

HEADS = "heads"
"""The reading that is the output of every head, before the projection, `(b, k, n, e)`."""

_NAME = re.compile(
    r"(?P<stack>[a-z]+)(?P<view>[1-9]\d*)\."
    r"(?:embed|(?P<block>0|[1-9]\d*)\.(?P<sublayer>[a-z]+(?:_[a-z]+)*)(?:\.(?P<reading>[a-z_]+))?)"
)


@dataclass(frozen=True)
class Site:
    """The parts of a site's name.

    Attributes:
        stack: The stack of blocks: `enc` for an encoder, `dec` for decoders, and so on.
        view: The view's number, from 1.
        block: The block's number, from 0, or None for the stack's input.
        sublayer: One of `SUBLAYERS`.
        reading: For an attention sublayer: `probs`, or a reduction such as `argmax` or `heads`.
            Empty for the residual stream after the sublayer.
    """

    stack: str
    view: int
    block: int | None
    sublayer: str
    reading: str = ""

    @classmethod
    def parse(cls, name: str) -> "Site":
        """Return the parts of `name`; raise Prob3rError if it does not name a site."""
        return _parse(name)

    @property
    def stream(self) -> str:
        """Name of the stream, stack and view, such as `dec2`."""
        return f"{self.stack}{self.view}"

    @property
    def adds(self) -> bool:
        """Whether its sublayer adds to the stream. Otherwise it starts or replaces the stream."""
        return self.sublayer not in ("embed", "modulation")

    @property
    def residual(self) -> "Site":
        """The residual site after this sublayer."""
        return replace(self, reading="")

    @property
    def probs(self) -> "Site":
        """The attention site of this sublayer."""
        return self.read(PROBS)

    def read(self, reading: str) -> "Site":
        """Return the site of another reading of this sublayer's attention."""
        return replace(self, reading=reading)

    def of(self, view: int) -> "Site":
        """Return the same place in another view."""
        return replace(self, view=view)

    def key_views(self, views: int) -> tuple[int, ...]:
        """Return the views whose tokens are the keys of this sublayer's attention, in order.

        Args:
            views: Number of views that the model runs over.
        """
        every = range(1, views + 1)
        if self.sublayer == "cross_attn":
            return tuple(view for view in every if view != self.view)
        return tuple(every) if self.sublayer == "global_attn" else (self.view,)

    def __str__(self) -> str:
        return _name(self)


@cache
def _name(site: Site) -> str:
    block = "" if site.block is None else f".{site.block}"
    reading = f".{site.reading}" if site.reading else ""
    return f"{site.stream}{block}.{site.sublayer}{reading}"


@cache
def _parse(name: str) -> Site:
    found = _NAME.fullmatch(name)
    sublayer = (found["sublayer"] or "embed") if found else ""
    readable = found is not None and (not found["reading"] or sublayer in ATTENTION)
    inner = SUBLAYERS if found is None or found["block"] is None else SUBLAYERS[1:]
    if found is None or sublayer not in inner or not readable:
        raise Prob3rError(
            f"'{name}' is not a site: write one like dec2.3.cross_attn, dec1.embed, "
            "enc1.5.mlp or dec2.3.cross_attn.probs."
        )
    block = None if found["block"] is None else int(found["block"])
    return Site(found["stack"], int(found["view"]), block, sublayer, found["reading"] or "")


class Tap:
    """The object that a model calls at each of its sites. This class changes nothing.

    Subclasses read or edit. At a residual site, the model calls the tap itself. At an attention
    site, it calls `attend` or `attend_views` with queries, keys and values, so that an attention
    map is built only if it is needed.

    Attributes:
        differentiates: Whether gradients flow through what the tap returns. If so, an adapter
            computes attention again from the heads even where the tap changed nothing.
    """

    differentiates: ClassVar[bool] = False

    def wants(self, site: str) -> bool:
        """Return whether the tap must be called for the sublayer of a residual site."""
        return True

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        """Return the stream `(b, n, d)` that the model continues with at this residual site."""
        return tensor

    @property
    def attends_apart(self) -> bool:
        """Whether `attend` is called for every site alone, even where views could share a call.

        A subclass whose `attend` does not depend on the site may return False, which is faster.
        """
        return type(self).attend is not Tap.attend

    def known(self, site: str) -> Tensor | None:
        """Return the stream after this sublayer if it is already known, else None."""
        return None

    def residual(self, site: str, compute: Callable[[], Tensor]) -> Tensor:
        """Return the stream after a sublayer: the known one, or the tap's result on a new one."""
        known = self.known(site)
        return self(site, compute()) if known is None else known

    def attend(
        self,
        site: str,
        queries: Float[Tensor, "b k n e"],
        keys: Float[Tensor, "b k m e"],
        values: Float[Tensor, "b k m e"],
    ) -> Float[Tensor, "b k n e"]:
        """Return the outputs of all heads at this attention site, given queries after RoPE."""
        return F.scaled_dot_product_attention(queries, keys, values)

    def attend_views(
        self,
        sites: Sequence[str],
        queries: Sequence[Float[Tensor, "b k n e"]],
        keys: Float[Tensor, "b k m e"],
        values: Float[Tensor, "b k m e"],
    ) -> list[Float[Tensor, "b k n e"]]:
        """Return the outputs of attention sites that share their keys, one for each view.

        In joint attention the queries of every view see the tokens of all views. The keys are the
        tokens of all views, in order. This is one product for all views, unless the tap
        `attends_apart`.
        """
        if self.attends_apart:
            each = zip(sites, queries, strict=True)
            return [self.attend(site, q, keys, values) for site, q in each]
        joined = self.attend(sites[0], torch.cat(list(queries), 2), keys, values)
        return list(joined.split([q.shape[2] for q in queries], 2))


class TapAround(Tap):
    """A tap that wraps another tap, which still gets every attention.

    Attributes:
        tap: The wrapped tap.
    """

    tap: Tap

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the result of the wrapped tap's `attend`; see `Tap.attend`."""
        return self.tap.attend(site, queries, keys, values)

    def attend_views(
        self, sites: Sequence[str], queries: Sequence[Tensor], keys: Tensor, values: Tensor
    ) -> list[Tensor]:
        """Return the result of the wrapped tap's `attend_views`; see `Tap.attend_views`."""
        return self.tap.attend_views(sites, queries, keys, values)


def attend_jointly(
    queries: Sequence[Float[Tensor, "b k n e"]],
    keys: Float[Tensor, "b k m e"],
    values: Float[Tensor, "b k m e"],
) -> list[Float[Tensor, "b k n e"]]:
    """Return the outputs of the queries of every view over the same keys, in one product."""
    joined = F.scaled_dot_product_attention(torch.cat(list(queries), 2), keys, values)
    return list(joined.split([q.shape[2] for q in queries], 2))


def select(patterns: str | Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the `names` that match any of the shell-style `patterns`, in their own order.

    Raises:
        Prob3rError: A pattern matches nothing; the message lists the nearest names.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
            hint = (
                f"near matches are {', '.join(near)}" if near else "it has no site of such a name"
            )
            raise Prob3rError(f"No site of this model matches '{pattern}'; {hint}.")
    return [name for name in names if any(fnmatchcase(name, p) for p in patterns)]
