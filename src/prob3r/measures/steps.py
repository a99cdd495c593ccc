"""Steps: the sites of the trunk in the order in which all views pass through them, then the output.

The trunk is the stack in which the views meet, such as the two decoders of DUSt3R.
"""

from collections.abc import Iterable
from typing import NamedTuple

from prob3r.errors import Prob3rError
from prob3r.models.protocol import Stack
from prob3r.models.sites import BETWEEN_VIEWS, Site
from prob3r.probes import SiteReader

OUTPUT = "output"
SUBLAYER_WORDS = {
    "embed": "input",
    "self_attn": "self-attention",
    "cross_attn": "cross-attention",
    "global_attn": "global attention",
    "mlp": "MLP",
    "global_mlp": "global MLP",
    OUTPUT: "output",
}
_STACK_WORDS = {"dec": "decoder"}


def stack_words(stack: str) -> str:
    """Return the word for a stack of blocks, such as `decoder`."""
    return _STACK_WORDS.get(stack, "trunk")


def between_views(sites: Iterable[object]) -> str:
    """Return the name of the kind of attention between views that some sites have.

    Args:
        sites: Names of sites, such as a column of a table; other entries are ignored.
    """
    names = {site for site in sites if isinstance(site, str) and site}
    kinds = {Site.parse(name).sublayer for name in names}
    found = [kind for kind in BETWEEN_VIEWS if kind in kinds]
    return SUBLAYER_WORDS[found[0]].capitalize() if found else "Attention between views"


class Step(NamedTuple):
    """The state of all views after one sublayer, since their streams run side by side.

    Attributes:
        block: Number of the block, or None before the first and after the last.
        sublayer: One of `prob3r.models.sites.SUBLAYERS`, or `output` for the output of the heads.
        stack: Name of the stack.
    """

    block: int | None
    sublayer: str
    stack: str = "dec"

    def site(self, view: int) -> str:
        """Return the name of this step's site in one view; the output's is `output`."""
        if self.sublayer == OUTPUT:
            return OUTPUT
        return str(Site(self.stack, view, self.block, self.sublayer))

    @property
    def words(self) -> str:
        """The step in words, such as `block 3's cross-attention`."""
        if self.block is not None:
            return f"block {self.block}'s {SUBLAYER_WORDS[self.sublayer]}"
        whole = "model" if self.sublayer == OUTPUT else stack_words(self.stack)
        return f"the {whole}'s {SUBLAYER_WORDS[self.sublayer]}"


def trunk_steps(bank: SiteReader, stack: Stack, views: int) -> list[Step]:
    """Return the steps at which probes read all views, in the order of the probes' sites.

    Args:
        bank: The probes.
        stack: The trunk.
        views: How many views there are.

    Raises:
        Prob3rError: The probes read no site of all views in the trunk.
    """
    streams = stack.streams(views)
    parsed = [Site.parse(site) for site in bank.sites]
    steps = [
        Step(site.block, site.sublayer, site.stack)
        for site in parsed
        if site.stack == stack.name
        and site.view == 2
        and all(bank.reads(str(site.of(view))) for view in streams)
    ]
    if not steps:
        needed = " and ".join(f"{stack.name}{view}.*" for view in (1, 2))
        raise Prob3rError(
            f"The probe bank reads no site of all views in the {stack_words(stack.name)}; an "
            f"explanation needs a bank trained on sites such as {needed}."
        )
    return steps
