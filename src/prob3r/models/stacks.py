"""Stacks of blocks and the tokens that run through them, as a model declares them."""

from dataclasses import dataclass
from functools import cache

from prob3r.errors import Prob3rError
from prob3r.models.sites import ATTENTION, BETWEEN_VIEWS, Site


@dataclass(frozen=True)
class TokenLayout:
    """The order of special tokens and patches in the stream of one view.

    Attributes:
        before: Names of the special tokens before the patches, such as `camera`, in order.
        after: Names of the special tokens after the patches.
    """

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def special(self) -> tuple[str, ...]:
        """The names of all special tokens, in order."""
        return self.before + self.after

    def patches(self, tokens: int) -> slice:
        """Return the slice of the patches in a stream with this number of tokens."""
        return slice(len(self.before), tokens - len(self.after))

    def index(self, name: str, tokens: int) -> int:
        """Return the index of a special token in a stream with this number of tokens.

        Raises:
            Prob3rError: There is no special token of this name.
        """
        if name in self.before:
            return self.before.index(name)
        if name in self.after:
            return tokens - len(self.after) + self.after.index(name)
        known = ", ".join(self.special) or "no special tokens"
        raise Prob3rError(f"There is no token '{name}' here; this stream has {known}.")


@dataclass(frozen=True)
class Stack:
    """A stack of blocks. Each view has one residual stream through it.

    Attributes:
        name: The first part of its sites' names, such as `dec`.
        width: Width of the residual stream.
        heads: Heads of every attention sublayer; they share the width evenly.
        sublayers: Names of the sublayers of each block, in the order in which they run.
        layouts: Layouts of the tokens of view 1, 2, …; the last one is used for all further views.
        views: The views that run through it; all by default.
        patches: Whether the streams have patches. If not, they have special tokens only.
    """

    name: str
    width: int
    heads: int
    sublayers: tuple[tuple[str, ...], ...]
    layouts: tuple[TokenLayout, ...] = (TokenLayout(),)
    views: tuple[int, ...] | None = None
    patches: bool = True

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return len(self.sublayers)

    def layout(self, view: int) -> TokenLayout:
        """Return the token layout of a view."""
        return self.layouts[min(view, len(self.layouts)) - 1]

    def streams(self, views: int) -> list[int]:
        """Return which of the first `views` views run through this stack."""
        every = range(1, views + 1)
        return [view for view in every if self.views is None or view in self.views]

    def attention(self, view: int) -> list[Site]:
        """Return the attention sublayers of a view, in the order in which they run."""
        return [site for site in self._of(view) if site.sublayer in ATTENTION]

    def between(self, view: int) -> list[Site]:
        """Return a view's attention to other views: the first such sublayer of every block."""
        first = {s.block: s for s in reversed(self._of(view)) if s.sublayer in BETWEEN_VIEWS}
        return list(reversed(first.values()))

    def ends(self, view: int) -> list[Site]:
        """Return the residual sites of a view at the end of every block."""
        return list({site.block: site for site in self._of(view)}.values())

    def _of(self, view: int) -> list[Site]:
        """Return the residual sites of a view after the sublayers of its blocks."""
        every = self.sites(view)
        return [site for site in every if site.view == view and site.block is not None]

    def sites(self, views: int) -> list[Site]:
        """Return the residual sites, block by block, sublayer by sublayer, view by view."""
        return list(_sites(self, views))


@cache
def _sites(stack: Stack, views: int) -> tuple[Site, ...]:
    shown = stack.streams(views)
    inputs = [Site(stack.name, view, None, "embed") for view in shown]
    blocks = [
        Site(stack.name, view, block, sublayer)
        for block, sublayers in enumerate(stack.sublayers)
        for sublayer in sublayers
        for view in shown
    ]
    return (*inputs, *blocks)
