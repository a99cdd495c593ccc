"""The heads that match, the heads of the controls, and the effects of cutting them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import patch_grid
from prob3r.measures.attention import PEAKS, chance
from prob3r.measures.heads import head_pck, matching_sites
from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.models.sites import HEADS, Site
from prob3r.runs.donated import Donated
from prob3r.runs.edits import Edit, HeadAblation, Means
from prob3r.runs.trace import trace
from prob3r.scenes.views import Views
from prob3r.studies.cuts.effects import effect, effects_of

SHARE = 0.05  # of all heads
DRAWS = 3

MATCHING, RANDOM, ENTROPY, ALL = CUTS = ("matching", "random", "equal entropy", "all")
TOP, ANY = "most matching", "any"
"""The order in which growing numbers of heads are cut: best matching first, or random."""

MODES = ("zero", "mean", "resample")
PCK = "pck@1"

Head = tuple[int, int]
"""A head: its block and its number."""


class HeadCut(NamedTuple):
    """A cut: which heads, the mode, the number of heads, and the random draw."""

    cut: str
    mode: str
    heads: int
    draw: int = 0


@dataclass(frozen=True)
class RankedHeads:
    """The heads by how well they match, measured before the scenes are cut.

    Attributes:
        heads: All heads of the attention between views, in decreasing order of PCK@1.
        entropy: The entropy of each head, in nats.
        means: The means of the outputs of all heads.
    """

    heads: Sequence[Head]
    entropy: Sequence[float]
    means: Means

    @property
    def few(self) -> int:
        """The number of matching heads."""
        return max(1, int(SHARE * len(self.heads)))

    def chosen(self) -> dict[tuple[str, int], list[Head]]:
        """Return the heads of every cut and draw."""
        few, heads = self.few, list(self.heads)
        found = {(MATCHING, 0): heads[:few], (ALL, 0): heads}
        for draw in range(DRAWS):
            found[RANDOM, draw] = _drawn(heads[few:], few, draw)
        rest = set(range(few, len(heads)))
        alike = []
        for own in range(min(few, len(rest))):
            nearest = min(rest, key=lambda i: (abs(self.entropy[i] - self.entropy[own]), i))
            rest.remove(nearest)
            alike.append(heads[nearest])
        found[ENTROPY, 0] = alike
        return {key: chosen for key, chosen in found.items() if chosen}

    def steps(self) -> dict[tuple[str, int], list[Head]]:
        """Return 1, 2, 4, … of the heads that match most, and as many random heads."""
        count, found = 1, {}
        order = _drawn(self.heads, len(self.heads), 0)
        while count < len(self.heads):
            found[TOP, count] = list(self.heads[:count])
            found[ANY, count] = order[:count]
            count *= 2
        return found


def read_heads(
    model: Model, views: Views
) -> tuple[list[Head], Float[Tensor, "b s"], Float[Tensor, "b s"]]:
    """Return the heads, their PCK@1 and their entropy; see `head_pck`."""
    sites = matching_sites(model, views.count)
    run = trace(model, views, sites, output=False, reductions=PEAKS)
    return head_pck(run, model, views)


def pck_rows(model: Model, views: Views, known: RankedHeads) -> pd.DataFrame:
    """Return the PCK@1 of every head."""
    heads, accuracy, _ = read_heads(model, views)
    level = chance(patch_grid(*views.view(1).size, model.config.patch))
    chosen = set(known.heads[: known.few])
    parts = [
        pd.DataFrame(
            {
                "pair": range(len(views)),
                "metric": PCK,
                "block": block,
                "head": head,
                "matching": (block, head) in chosen,
                "chance": level,
                "value": values.cpu().numpy(),
            }
        )
        for (block, head), values in zip(heads, accuracy.unbind(1), strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def cut_rows(model: Model, views: Views, known: RankedHeads) -> pd.DataFrame:
    """Return the effects of every cut; a scene alone in its batch has no rows for `resample`."""
    places = _places(model, views.count)
    wanted = [str(site.read(HEADS)) for sites in places.values() for site in sites]
    rows, others = Donated.of(views, trace(model, views, wanted, output=False))
    sources = {"zero": None, "mean": known.means, "resample": others}
    variants: dict[HeadCut, list[Edit]] = {}
    cuts = [
        (HeadCut(cut, mode, len(heads), draw), heads)
        for (cut, draw), heads in known.chosen().items()
        for mode in MODES
    ]
    cuts += [(HeadCut(cut, "mean", count), heads) for (cut, count), heads in known.steps().items()]
    for cut, heads in cuts:
        of_some = cut.mode == "resample" and len(rows) < len(views)
        if of_some and not rows:
            continue
        by_block = defaultdict(list)
        for block, head in heads:
            by_block[block].append(head)
        variants[cut] = [
            HeadAblation(
                str(site),
                mode=cut.mode,
                heads=numbers,
                source=sources[cut.mode],
                scenes=rows if of_some else None,
            )
            for block, numbers in by_block.items()
            for site in places[block]
        ]
    return effects_of(model, views, variants)


def _places(model: Model, views: int) -> dict[int, list[Site]]:
    """Return the attention sites between views by block: of view 2, or of all views if joint."""
    found = {}
    for place in trunk(model).between(2):
        assert place.block is not None  # attention is that of a block
        shared = place.sublayer == "global_attn"
        found[place.block] = [place.of(v) for v in (range(1, views + 1) if shared else (2,))]
    return found


def _drawn(heads: Sequence[Head], count: int, seed: int) -> list[Head]:
    order = torch.randperm(len(heads), generator=torch.Generator().manual_seed(seed)).tolist()
    return [heads[i] for i in order[:count]]


def by_heads(table: pd.DataFrame, metric: str, mode: str) -> dict[str, Float[Tensor, " n"]]:
    """Return the effect of every kind of cut by scene; for random heads, the mean of the draws."""
    rows = table[table.cut.isin(CUTS)]
    found = {}
    for cut in dict.fromkeys(rows.cut):
        draws = sorted(rows[rows.cut == cut].draw.unique())
        values = [effect(rows, metric, cut=cut, mode=mode, draw=draw) for draw in draws]
        found[cut] = torch.stack(values).mean(0)
    return found
