"""C4, look-alikes: do matches go from semantic to geometric over the blocks?

Every scene holds two or three copies of one object, alike in shape and texture and apart in space.
For patches of view 2 on one copy, with that copy and another in view 1: what share of the
attention on copies falls on the right one? This *preference* is compared with `chance`, the right
copy's share of the copies' patches. Attention that depends only on appearance has the preference of
chance; attention that depends on the 3D point has 1. The same is measured for the nearest features
(by cosine) at every site.

Rule, for the median over pairs with 95 % bootstrap intervals, for the mean of a block's heads:

- *Matches go from semantic to geometric*: supported if the preference of the last block is above
  chance and above that of the first block, both intervals excluding zero; not supported if the
  last is not above chance, or if it is below the first with an interval that excludes zero; else
  mixed.
"""

from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prob3r.geometry import central_pixels, median
from prob3r.measures.attention import patch_queries
from prob3r.measures.errors import twins
from prob3r.measures.statistics import as_text, median_interval, medians, wide
from prob3r.models.protocol import trunk
from prob3r.models.sites import Site
from prob3r.rooms import Rooms
from prob3r.runs.trace import Reduction, trace
from prob3r.scenes.views import Pair
from prob3r.studies.framework.figures import COLOURS, PAGE, band, block_axis, figure
from prob3r.studies.framework.study import BETWEEN, Study
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.studies.framework.verdict import Finding, decide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MEAN = {"mean": Reduction(lambda probs: probs.mean(1, keepdim=True), by_view=True)}


class Copies(NamedTuple):
    """Which patches of view 1 show the same object as a patch of view 2, and which show a copy.

    Attributes:
        right: Whether the patch of view 1 shows the same object.
        wrong: Whether it shows another copy of the object.
    """

    right: Bool[Tensor, "b n m"]
    wrong: Bool[Tensor, "b n m"]

    @classmethod
    def of(cls, pair: Pair, prototypes: Int[Tensor, "b k"], patch: int) -> "Copies":
        """Return the copies of a batch, by the labels of the patches' central pixels."""
        labels1, labels2 = (_centres(view.labels, patch) for view in (pair.view1, pair.view2))
        kinds = torch.nn.functional.pad(prototypes, (1, 0), value=-1)  # label 0 is no object
        kind1, kind2 = (
            kinds.gather(1, labels.clamp(0, kinds.shape[1] - 1).long())
            for labels in (labels1, labels2)
        )
        same = labels2[:, :, None] == labels1[:, None]
        alike = (kind2[:, :, None] == kind1[:, None]) & (kind2[:, :, None] >= 0)
        right, wrong = alike & same, alike & ~same
        both = right.any(-1, keepdim=True) & wrong.any(-1, keepdim=True)
        return cls(right & both, wrong & both)

    def preference(self, mass: Float[Tensor, "b n m"]) -> Float[Tensor, " b"]:
        """Return the share of the mass on copies that is on the right one, averaged over patches.

        The share is NaN for a pair without such patches.
        """
        right, wrong = ((mass * mask).sum(-1) for mask in self)
        asked = self.right.any(-1)
        share = right / (right + wrong).clamp_min(torch.finfo(mass.dtype).tiny)
        total: Tensor = (share * asked).sum(-1)
        return total / asked.sum(-1)


class LookAlikes(Study):
    """C4: attention on the right one of several objects that look alike."""

    name = "look-alikes"
    title = "Matches go from semantic to geometric"
    place = 6
    attention = BETWEEN
    data = "lookalikes:test"

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        """Return the preference of every block's attention, of features, and of chance."""
        model = tested.model
        numbers = [int(name.rpartition("/")[2]) for name in pair.names]
        prototypes = Rooms("test", lookalikes=True).prototypes(numbers)
        copies = Copies.of(pair, prototypes.to(pair.view1.image.device), model.config.patch)
        stack = trunk(model)
        sites, places = [str(site) for site in stack.sites(2)], stack.between(2)
        wanted = [*sites, *(str(place.read("mean")) for place in places)]
        run = trace(model, pair, wanted, output=False, reductions=_MEAN)
        start = str(Site(stack.name, 2, None, "embed"))
        found = {"chance": {start: copies.preference((copies.right | copies.wrong).float())}}
        # View 1's patches are the first keys of each place.
        found["attention"] = {
            str(place): copies.preference(
                patch_queries(run, place.read("mean"))[:, 0, :, : copies.right.shape[-1]]
            )
            for place in places
        }
        found["features"] = {
            second: copies.preference(_nearest(run[first].patches, run[second].patches, copies))
            for first, second in twins(sites)
        }
        return pd.concat(
            pd.DataFrame(
                {
                    "pair": range(len(pair)),
                    "metric": what,
                    "site": site,
                    "value": values.cpu().numpy(),
                }
            )
            for what, by_site in found.items()
            for site, values in by_site.items()
        )

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answer."""
        _, values = wide(table[table.metric == "attention"], "site")
        _, chance = wide(table[table.metric == "chance"], "site")
        first, last = (median_interval(values[:, i] - chance[:, 0]) for i in (0, -1))
        gap = median_interval(values[:, -1] - values[:, 0])
        verdict = decide(last.low > 0 and gap.low > 0, last.low <= 0 or gap.high < 0)
        curve = ", ".join(f"{share:.2f}" for share in median(values.T).tolist())
        return [
            Finding(
                "C4",
                "Of objects that look alike, later blocks pick the right one",
                verdict,
                *gap,
                unit="share of attention on the right copy, last block less first",
                control=f"over chance ({float(median(chance[:, 0])):.2f}): first block "
                f"{as_text(first)}, last {as_text(last)}; by block {curve}",
                pairs=int((~values[:, 0].isnan()).sum()),
            )
        ]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the preference by block and by site."""
        _, chance = wide(table[table.metric == "chance"], "site")
        level = float(median(chance[:, 0]))
        with figure(1, 2, PAGE, 2.2) as (drawn, axes):
            sites, values = wide(table[table.metric == "attention"], "site")
            blocks = [Site.parse(site).block or 0 for site in sites]
            band(axes[0], blocks, *medians(values), COLOURS["cross_attn"], "mean of heads")
            axes[0].set_xlabel("decoder block")
            axes[0].set_ylabel("attention on the right copy")
            sites, values = wide(table[table.metric == "features"], "site")
            band(axes[1], range(len(sites)), *medians(values), COLOURS["easy"], "nearest feature")
            block_axis(axes[1], sites)
            axes[1].set_ylabel("nearest feature on the right copy")
            for axis in axes:
                axis.axhline(level, color=COLOURS["control"], ls=":", label="chance")
                axis.set_ylim(0, 1)
                axis.legend()
        return {"preference": drawn}


def _nearest(
    one: Float[Tensor, "b m d"], two: Float[Tensor, "b n d"], copies: Copies
) -> Float[Tensor, "b n m"]:
    """Return 1 at the copy's patch whose feature is nearest to each patch of view 2."""
    one, two = (torch.nn.functional.normalize(t, dim=-1) for t in (one, two))
    like = (two @ one.mT).masked_fill(~(copies.right | copies.wrong), -torch.inf)
    return torch.nn.functional.one_hot(like.argmax(-1), like.shape[-1]).to(like)


def _centres(labels: Int[Tensor, "b h w"] | None, patch: int) -> Int[Tensor, "b n"]:
    assert labels is not None  # rooms always have them
    return central_pixels(labels, patch).flatten(1)
