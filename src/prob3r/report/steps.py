"""Steps: the decoders' sites in the order in which a pair passes through them, then the output."""

from collections.abc import Sequence
from typing import NamedTuple

from prob3r.errors import Prob3rError
from prob3r.models.sites import Site

SUBLAYER_WORDS = {
    "embed": "input",
    "self_attn": "self-attention",
    "cross_attn": "cross-attention",
    "mlp": "MLP",
    "output": "output",
}


class Step(NamedTuple):
    """A state of both views at once, since their decoders work side by side.

    Attributes:
        block: Number of the decoder block, or None before the first and after the last.
        sublayer: One of `prob3r.models.sites.SUBLAYERS`, or `output` for what the heads say.
    """

    block: int | None
    sublayer: str

    def site(self, view: int) -> str:
        """Return the name of this step's site in one view; the output's is `output`."""
        if self.sublayer == "output":
            return "output"
        return str(Site("dec", view, self.block, self.sublayer))

    @property
    def words(self) -> str:
        """The step in words, such as `block 3's cross-attention`."""
        if self.block is None:
            return (
                f"the {'decoder' if self.sublayer == 'embed' else 'model'}'s "
                + (SUBLAYER_WORDS[self.sublayer])
            )
        return f"block {self.block}'s {SUBLAYER_WORDS[self.sublayer]}"


def decoder_steps(sites: Sequence[str]) -> list[Step]:
    """Return the steps at which both views have a site among `sites`, in their order.

    Raises:
        Prob3rError: There is none.
    """
    parsed = [Site.parse(site) for site in sites]
    known = {(s.view, s.block, s.sublayer) for s in parsed if s.stack == "dec"}
    steps = [
        Step(s.block, s.sublayer)
        for s in parsed
        if s.stack == "dec" and s.view == 2 and (1, s.block, s.sublayer) in known
    ]
    if not steps:
        raise Prob3rError(
            "The probe bank reads no decoder site of both views; an explanation needs a bank "
            "trained on sites such as dec1.* and dec2.*."
        )
    return steps
