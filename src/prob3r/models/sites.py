"""Sites: the places in a model where a tensor can be read or edited.

A residual site is the residual stream of one view after one sublayer, `dec2.3.cross_attn`; an
attention site is the attention of one sublayer, `dec2.3.cross_attn.probs`. Blocks count from 0.
Patterns are shell-style: `dec2.*.cross_attn`.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError

SUBLAYERS = ("embed", "self_attn", "cross_attn", "mlp")

_NAME = re.compile(
    r"(?P<stack>enc|dec)(?P<view>[12])\."
    r"(?:embed|(?P<block>0|[1-9]\d*)\.(?P<sublayer>self_attn|cross_attn|mlp)(?P<probs>\.probs)?)"
)


@dataclass(frozen=True)
class Site:
    """The parts of a site's name.

    Attributes:
        stack: `enc` for the encoder, `dec` for the decoders.
        view: 1 or 2.
        block: The block's number, or None for the stack's input.
        sublayer: One of `SUBLAYERS`.
        probs: Whether this is the sublayer's attention rather than the residual stream after it.
    """

    stack: str
    view: int
    block: int | None
    sublayer: str
    probs: bool = False

    @classmethod
    def parse(cls, name: str) -> "Site":
        """Return the parts of `name`; raise Prob3rError if it does not name a site."""
        found = _NAME.fullmatch(name)
        sublayer = found["sublayer"] or "embed" if found else ""
        if (
            found is None
            or (found["probs"] and sublayer == "mlp")
            or (found["stack"] == "enc" and sublayer == "cross_attn")
        ):
            raise Prob3rError(
                f"'{name}' is not a site: write one like dec2.3.cross_attn, dec1.embed, "
                "enc1.5.mlp or dec2.3.cross_attn.probs."
            )
        block = None if found["block"] is None else int(found["block"])
        return cls(found["stack"], int(found["view"]), block, sublayer, bool(found["probs"]))

    def __str__(self) -> str:
        where = f"{self.stack}{self.view}"
        block = "" if self.block is None else f".{self.block}"
        return f"{where}{block}.{self.sublayer}{'.probs' if self.probs else ''}"


class Tap:
    """What a model calls at each of its sites; this one changes nothing.

    Subclasses read or edit. A model hands every residual site to the tap itself, and the inputs of
    every attention to `attend`, so that attention which nobody asked for is never built.
    """

    def wants(self, stack: str) -> bool:
        """Return whether it has to see a stack such as `enc1`, or a model may leave it out."""
        return True

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        """Return what the model goes on with at this residual site, `(b, n, d)`."""
        return tensor

    def attend(
        self,
        site: str,
        queries: Float[Tensor, "b k n e"],
        keys: Float[Tensor, "b k m e"],
        values: Float[Tensor, "b k m e"],
    ) -> Float[Tensor, "b k n e"]:
        """Return the output of every head at this attention site, queries and keys after RoPE."""
        return F.scaled_dot_product_attention(queries, keys, values)


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
