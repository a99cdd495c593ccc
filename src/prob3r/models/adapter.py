"""The adapter: makes a `Model` of a third-party module, by a map from sites to submodules."""

import difflib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.models.hooks import AnyHookPoint, AttentionHookPoint, HookPoint, hooked, members
from prob3r.models.protocol import Prediction, Stack, TokenLayout
from prob3r.models.sites import Site, Tap
from prob3r.models.trial import Trial

Run = Callable[..., Prediction]
"""Called as `run(module, *images)`, one batch `(b, 3, h, w)` in [-1, 1] a view."""

SiteMap = Mapping[str, str | HookPoint | AttentionHookPoint]
"""Where sites are, by their names or by patterns such as `dec*.0.mlp`, the same for every view."""


@dataclass(frozen=True)
class AdapterConfig:
    """The description of an adapter's model.

    Attributes:
        architecture: Name of the module's class.
        image_size: Height and width that the model was made for, in pixels.
        patch: Side of a square patch, in pixels.
        tokens: Token layouts by stack and view, as in `Stack.layouts`.
        sites: The submodule of every site, for two views.
    """

    architecture: str
    image_size: tuple[int, int]
    patch: int
    tokens: Mapping[str, tuple[TokenLayout, ...]]
    sites: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as values that fit JSON."""
        return asdict(self) | {"image_size": list(self.image_size)}


class Adapter(nn.Module):
    """A `Model` made of any module, by a map from sites to submodules.

    Without a tap, the module runs unchanged. With a tap, forward hooks call the tap at every site
    of the map. The hooks are removed when the run ends, also after an error. What the tap does not
    change stays equal bit for bit. Attention that it changes is computed again from queries, keys
    and values.

    The map is tested when the adapter is made, with random images of two views, and of three views
    if the model takes three: see `prob3r.models.trial`.

    Args:
        module: The model; it is put in eval mode.
        sites: A map from the name of each site to its place: a `HookPoint` for the residual stream
            after a sublayer, an `AttentionHookPoint` for its attention, or the path of a submodule
            only, whose output is the stream, or which is an `nn.MultiheadAttention`. A name with
            `*` in place of the view, such as `dec*.0.mlp`, stands for all views. Or a function from
            the number of views to such a map.
        run: Calls the module with one batch of images for each view and returns a `Prediction`.
        image_size: Height and width that the model was made for, in pixels.
        patch: Side of a square patch, in pixels.
        tokens: Token layouts by stack: one layout for all views, or a tuple with the layouts of
            view 1, 2, …, the last of which is used for all further views. Stacks that are not named
            have patches only.
        most_views: Largest number of views that the model takes, or None if it takes any number. By
            default 2 if `sites` is a map without `*`, else None.

    Raises:
        Prob3rError: The tensor at a site is not what the name of the site says; the message names
            the site.
    """

    def __init__(
        self,
        module: nn.Module,
        sites: SiteMap | Callable[[int], SiteMap],
        run: Run,
        *,
        image_size: tuple[int, int],
        patch: int,
        tokens: Mapping[str, TokenLayout | tuple[TokenLayout, ...]] | None = None,
        most_views: int | str | None = "by the map",
    ):
        super().__init__()
        self.module, self.run = module, run
        self.site_map = sites
        if isinstance(most_views, str):
            named = not callable(sites) and not any("*" in site for site in sites)
            most_views = 2 if named else None
        if most_views is not None and most_views < 2:
            raise Prob3rError(f"most_views is {most_views}; it must be at least 2, or None.")
        self.most_views = most_views
        self._points: dict[int, dict[str, AnyHookPoint]] = {}
        paths = {site: point.path for site, point in self.points(2).items()}
        layouts = {
            stack: (layout,) if isinstance(layout, TokenLayout) else layout
            for stack, layout in (tokens or {}).items()
        }
        self.config = AdapterConfig(type(module).__name__, image_size, patch, layouts, paths)
        _check_tokens(self.config.tokens, self.points(2))
        self.eval()
        self._widths, self._heads = Trial(self, 2).check()
        if self.most_views != 2:
            Trial(self, 3).check()

    def forward(self, *images: Tensor, tap: Tap | None = None) -> Prediction:
        """Return the prediction of a batch of scenes; see `Model`.

        Raises:
            Prob3rError: There are fewer than two views, or more than the model takes.
        """
        views, most = len(images), self.most_views
        if views < 2 or (most is not None and views > most):
            takes = "2 or more" if most is None else "2" if most == 2 else f"2 to {most}"
            raise Prob3rError(
                f"This {self.config.architecture} takes {takes} views, and there are {views}."
            )
        if tap is None:
            return self.run(self.module, *images)
        with hooked(self.module, self.points(views), tap, views, rejoin=tap.differentiates):
            return self.run(self.module, *images)

    def points(self, views: int) -> Mapping[str, AnyHookPoint]:
        """Return the place of every site by name, for a number of views.

        Raises:
            Prob3rError: The map has an error; the message names the site.
        """
        if views not in self._points:
            given = self.site_map(views) if callable(self.site_map) else self.site_map
            named = {
                name: where for pattern, where in given.items() for name in _names(pattern, views)
            }
            points = {site: _point(self.module, site, where) for site, where in named.items()}
            _check_partners(points, views)
            self._points[views] = points
        return self._points[views]

    def sites(self, views: int = 2) -> list[str]:
        """Return the names of all residual sites, in the order of the map."""
        return [site for site, point in self.points(views).items() if isinstance(point, HookPoint)]

    def attention_sites(self, views: int = 2) -> list[str]:
        """Return the names of all attention sites, in the order of the map."""
        points = self.points(views).items()
        return [site for site, point in points if isinstance(point, AttentionHookPoint)]

    @cached_property
    def stacks(self) -> Mapping[str, Stack]:
        """The stacks of blocks by name, as they follow from the map."""
        names = [Site.parse(site) for site in self.sites()]
        stacks = {}
        for name in dict.fromkeys(site.stack for site in names):
            own = [site for site in names if site.stack == name]
            blocks: dict[int, dict[str, None]] = defaultdict(dict)
            for site in own:
                if site.block is not None:
                    blocks[site.block][site.sublayer] = None
            heads = [self._heads[str(site.probs)] for site in own if str(site.probs) in self._heads]
            count = max(blocks, default=-1) + 1
            views = tuple(dict.fromkeys(site.view for site in own))
            stacks[name] = Stack(
                name,
                self._widths[str(own[0])],
                heads[0] if heads else 1,
                tuple(tuple(blocks.get(block, ())) for block in range(count)),
                self._layouts(name),
                None if len(views) == 2 else views,
            )
        return stacks

    def tokens(self, site: Site) -> int:
        """Return the number of tokens in the stream of a site at `image_size`."""
        height, width = self.config.image_size
        layouts = self._layouts(site.stack)
        return height * width // self.config.patch**2 + len(
            layouts[min(site.view, len(layouts)) - 1].special
        )

    def _layouts(self, stack: str) -> tuple[TokenLayout, ...]:
        """Return where the special tokens of a stack stand, view by view."""
        return self.config.tokens.get(stack, (TokenLayout(),))


def _names(pattern: str, views: int) -> list[str]:
    """Return the names of sites that a name or a pattern stands for."""
    if "*" not in pattern:
        return [pattern]
    return [pattern.replace("*", str(view), 1) for view in range(1, views + 1)]


def _point(module: nn.Module, site: str, where: str | AnyHookPoint) -> AnyHookPoint:
    """Return where a site is; raise Prob3rError if it cannot be there."""
    parsed = Site.parse(site)
    kind = AttentionHookPoint if parsed.reading else HookPoint
    point = kind(where) if isinstance(where, str) else where
    if not isinstance(point, kind):
        raise Prob3rError(
            f"The site '{site}' is mapped to a point of the kind {type(point).__name__}; give a "
            f"{kind.__name__}."
        )
    joint = isinstance(point, AttentionHookPoint) and point.packed == "tokens"
    if joint and parsed.sublayer != "global_attn":
        raise Prob3rError(
            f"The site '{site}' is mapped to joint attention (packed='tokens'), in which all views "
            "see all views; its sublayer must be global_attn."
        )
    known = [name for name, _ in module.named_modules() if name]
    for path in (point.path, getattr(point, "onto", None)):
        if path is not None and path not in known:
            near = difflib.get_close_matches(path, known, n=3, cutoff=0.4) or known[:3]
            raise Prob3rError(
                f"The site '{site}' is mapped to '{path}', and this {type(module).__name__} has "
                f"no such submodule; it has {', '.join(near)}, ...."
            )
    return point


def _check_partners(points: Mapping[str, AnyHookPoint], views: int) -> None:
    """Raise Prob3rError if attention is mapped without its stream, or a view is not there."""
    for name, point in points.items():
        site = Site.parse(name)
        sublayer = str(site.residual)
        if sublayer not in points:
            raise Prob3rError(
                f"The map has '{name}' without '{sublayer}'; edits of attention need the stream "
                "after it too."
            )
        if site.view > views:
            raise Prob3rError(
                f"The map of {views} views has '{name}', which is a site of view {site.view}."
            )
        members(point, site, views)


def _check_tokens(
    tokens: Mapping[str, tuple[TokenLayout, ...]], points: Mapping[str, AnyHookPoint]
) -> None:
    """Raise Prob3rError if a layout belongs to no stack of the map."""
    stacks = dict.fromkeys(Site.parse(site).stack for site in points)
    if unknown := tokens.keys() - stacks:
        raise Prob3rError(
            f"`tokens` names the stack '{min(unknown)}', and the map has no site in it; its stacks "
            f"are {', '.join(stacks)}."
        )
