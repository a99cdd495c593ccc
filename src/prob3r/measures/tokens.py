"""Tokens that may hold information of no single patch, and random tokens as their controls.

The definitions and their constants were fixed before any result. Sites are those of the trunk:

- The *attention mass* of a key is the attention that it receives, averaged over queries.
- A *sink* of a head is a key that takes more than `SINK` times its uniform share of the head's
  attention, averaged over queries and pairs. Because of the average over pairs, a sink is a
  position among the keys, and not the content of one image.
- A *high-norm token* of a pair is a token whose residual stream, at the output of at least one
  block, has a norm of more than `DEVIATIONS` robust standard deviations (1.4826 times the median
  absolute deviation) above the median of its view's tokens. This is after Darcet et al., Vision
  Transformers Need Registers, ICLR 2024, who use the norm alone. Here a token of view 2 is also
  one if it takes more than `SINK` times its uniform share of view 2's attention in that pair,
  averaged over the heads of a sublayer.
- *Special tokens* are those of the architecture that stand for no patch, such as a camera token.
- The *marked tokens* of a view are all of these together. All sinks are those of view 2's heads,
  so the sinks in view 1 are tokens that view 2 attends to.

Controls are drawn for each pair from the tokens that are not marked, in a random order that the
pair's name alone determines. The control `count` takes as many tokens as are marked. The control
`mass` takes tokens until they hold at least as much of the attention mass in that pair as the
marked tokens do. If too few tokens are left, all of them are taken.
"""

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import median, patch_grid
from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.models.sites import BETWEEN_VIEWS, Site
from prob3r.runs.edits import Setting
from prob3r.runs.trace import Trace, trace
from prob3r.scenes.sampling import sampled_batches
from prob3r.scenes.source import Pairs
from prob3r.scenes.views import Pair, Views

SINK = 5.0  # times its uniform share of attention
DEVIATIONS = 3.0  # robust standard deviations
_NORMAL = 1.4826  # standard deviations to a median absolute deviation, if normal

CHOSEN, COUNT, MASS = CUTS = ("chosen", "count", "mass")
"""What is cut: the chosen tokens, or one of their two controls."""


def is_sink(mass: Float[Tensor, "*b m"]) -> Bool[Tensor, "*b m"]:
    """Return which keys take more than `SINK` times their uniform share of attention."""
    return mass > SINK / mass.shape[-1]


def is_outlier(norms: Float[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    """Return which norms are over `DEVIATIONS` robust deviations above the median of their row."""
    over = norms - median(norms)[:, None]
    return over > DEVIATIONS * _NORMAL * median(over.abs())[:, None]


@dataclass(frozen=True)
class Sinks:
    """The sinks of view 2's heads.

    Attributes:
        mass: Attention mass of every key, averaged over pairs, by sublayer.
    """

    mass: Mapping[str, Float[Tensor, "k m"]]

    @classmethod
    def find(cls, model: Model, pairs: Pairs, count: int, batch: int) -> "Sinks":
        """Return the sinks over a sample of the pairs.

        Raises:
            Prob3rError: There are no pairs, or they have several sizes, so that a position means
                different things.
        """
        device, total, seen = next(model.parameters()).device, dict[str, Tensor](), 0
        wanted = [str(site.read("mass")) for site in trunk(model).attention(2)]
        for pair in sampled_batches(pairs, count, batch, device):
            run = trace(model, pair, wanted, output=False)
            for place, mass in _masses(run):
                site, added = str(place), mass.sum(0)
                if total.setdefault(site, torch.zeros_like(added)).shape != added.shape:
                    raise several_sizes()
                total[site] += added
            seen += len(pair)
        if not seen:
            raise Prob3rError("There are no pairs to find sinks over; give at least one.")
        return cls({site: mass / seen for site, mass in total.items()})

    @property
    def found(self) -> dict[str, Bool[Tensor, "k m"]]:
        """Which keys are sinks."""
        return {site: is_sink(mass) for site, mass in self.mass.items()}

    @property
    def strongest(self) -> dict[str, Bool[Tensor, "k m"]]:
        """The key with the most attention in each head, whether or not it is a sink."""
        return {
            site: torch.nn.functional.one_hot(mass.argmax(-1), mass.shape[-1]).bool()
            for site, mass in self.mass.items()
        }

    def of_view_2(self, model: Model, size: tuple[int, int]) -> Float[Tensor, " n"]:
        """Return the mean attention of view 2 on each of its own tokens, over sublayers and heads.

        Args:
            model: The model of these sinks.
            size: Height and width of the views.
        """
        count = math.prod(patch_grid(*size, model.config.patch))
        setting, found = Setting(model, 1, (count, count)), []
        for site, mass in self.mass.items():
            keys = setting.keys(site).split(mass.mean(0))
            if 2 in keys:
                found.append(keys[2])
        return torch.stack(found).mean(0)

    def __bool__(self) -> bool:
        """Return whether the model has any sink."""
        return any(bool(keys.any()) for keys in self.found.values())


class MarkedTokens(NamedTuple):
    """The marked tokens of both views.

    Attributes:
        view1: Which tokens of view 1 are marked.
        view2: Which tokens of view 2 are marked.
    """

    view1: Bool[Tensor, "b m"]
    view2: Bool[Tensor, "b n"]

    @classmethod
    def of(cls, model: Model, pair: Pair, run: Trace, sinks: Sinks) -> "MarkedTokens":
        """Return the marked tokens of a batch, given a run with `token_sites` recorded.

        Raises:
            Prob3rError: The pairs have another size than those of the sinks.
        """
        setting = Setting.of(model, pair)
        view1, view2 = (_marked(setting, run, sinks, view) for view in (1, 2))
        for site, mass in _masses(run):
            keys = setting.keys(site).split(is_sink(mass.mean(1)))
            if site.view == 2 and 2 in keys:
                view2 |= keys[2]
        return cls(view1, view2)

    def among(self, site: Site) -> Bool[Tensor, "b m"]:
        """Return the marked tokens among the keys of an attention site."""
        return torch.cat([self[view - 1] for view in site.key_views(2)], 1)


def token_sites(model: Model) -> list[str]:
    """Return the sites that `MarkedTokens`, `attention_mass` and their controls need recorded."""
    stack = trunk(model)
    between = [site for site in stack.attention(1) if site.sublayer in BETWEEN_VIEWS]
    masses = [str(s.read("mass")) for s in (*stack.attention(2), *between)]
    return masses + [str(site) for view in (1, 2) for site in stack.ends(view)]


def attention_mass(model: Model, pair: Pair, run: Trace, view: int) -> Float[Tensor, "b n"]:
    """Return the mean attention on each token of a view, over the sublayers that attend to it.

    For view 1 these are sublayers of view 2. For view 2 these are sublayers of both views.
    """
    setting, found = Setting.of(model, pair), []
    for site, mass in _masses(run):
        keys = setting.keys(site).split(mass.mean(1))
        if view in keys and (site.view == 2 or view == 2):
            found.append(keys[view])
    return torch.stack(found).mean(0)


def _masses(run: Trace) -> Iterator[tuple[Site, Float[Tensor, "b k m"]]]:
    """Yield each attention sublayer whose attention mass was recorded, and the mass."""
    for name, record in run.items():
        site = Site.parse(name)
        if site.reading == "mass":
            yield site.residual, torch.Tensor(record)


def _marked(setting: Setting, run: Trace, sinks: Sinks, view: int) -> Bool[Tensor, "b n"]:
    """Return a view's sinks, high-norm tokens, and special tokens."""
    stack = trunk(setting.model)
    norms = [run[str(site)].norm(dim=-1) for site in stack.ends(view)]
    marked = torch.stack([is_outlier(norm) for norm in norms]).any(0)
    for site, keys in sinks.found.items():
        axis = setting.keys(site)
        if keys.shape[-1] != len(axis):
            raise several_sizes()
        if view in (parts := axis.split(keys)):
            marked |= parts[view].any(0).to(marked.device)
    special = torch.ones_like(marked)
    special[:, stack.layout(view).patches(marked.shape[1])] = False
    return marked | special


def random_order(views: Views, salt: str, shape: tuple[int, ...]) -> Float[Tensor, "b *k m"]:
    """Return a random number for each token of every scene, seeded by the scene's name."""
    names = views.names or tuple(str(row) for row in range(len(views)))
    generator = torch.Generator()
    rows = []
    for name in names:
        generator.manual_seed(zlib.crc32(f"{name} {salt}".encode()))
        rows.append(torch.rand(shape, generator=generator))
    return torch.stack(rows).to(views.images[0].device)


def with_controls(
    chosen: Bool[Tensor, "b *k m"],
    free: Bool[Tensor, "b *k m"],
    mass: Float[Tensor, "b *k m"],
    order: Float[Tensor, "b *k m"],
) -> dict[str, Bool[Tensor, "b *k m"]]:
    """Return chosen tokens and their two controls, under the names `CUTS`.

    Args:
        chosen: The tokens that the controls are compared with.
        free: The tokens that controls may be drawn from, except for the chosen ones.
        mass: The attention mass of every token.
        order: Random numbers. Tokens with smaller numbers are drawn first.
    """
    free = free & ~chosen
    place = order.masked_fill(~free, torch.inf).argsort(-1)
    free_first, weight = free.gather(-1, place), mass.gather(-1, place)
    wanted = chosen.sum(-1, keepdim=True)
    in_count = free_first & (torch.arange(chosen.shape[-1], device=chosen.device) < wanted)
    # A token is taken if the tokens before it do not hold enough attention mass.
    before = torch.nn.functional.pad(weight.cumsum(-1)[..., :-1], (1, 0))
    in_mass = free_first & (before < (mass * chosen).sum(-1, keepdim=True))
    nothing = torch.zeros_like(chosen)
    return {
        CHOSEN: chosen,
        COUNT: nothing.scatter(-1, place, in_count),
        MASS: nothing.scatter(-1, place, in_mass),
    }


def several_sizes() -> Prob3rError:
    """Return the error for pairs of several sizes."""
    return Prob3rError(
        "The pairs have several sizes, but tokens are identified by their position; give pairs of "
        "one size."
    )
