"""The sites of a model that are fitted, the settings of a fit, and its number of scenes."""

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from prob3r.geometry import patch_grid
from prob3r.models import Model
from prob3r.models.protocol import Stack, trunk
from prob3r.models.sites import ATTENTION, Site
from prob3r.probes.equations import GRAM_SHARE
from prob3r.probes.scenes import HELD_OUT
from prob3r.probes.targets import PAIR, POINTMAP, WHOSE, Target, Whose

PATCHES_PER_UNKNOWN = 20
LEAST_SCENES = 64  # even if few would give enough patches, since patches of one scene are similar
PAIRS, HELD_PAIRS = 768, 256  # scenes for a target of pairs; each view of a scene gives one row
MOST_COST = 0.17  # cost limit of the normal equations, as a share of the cost of the blocks
LEAST_SHARE = 0.25  # of the patches; if this costs more, the model is small and cheap to fit anyway


class SiteGroup(NamedTuple):
    """The sites of one stack, whose probes become one bank.

    Attributes:
        stack: The stack.
        sites: The sites of views 1 and 2.
    """

    stack: Stack
    sites: tuple[str, ...]

    def read_by(self, site: str, views: int) -> list[str]:
        """Return the sites of all views that the probe of a site is fitted on."""
        place = Site.parse(site)
        return [str(place.of(v)) for v in self.stack.streams(views) if min(v, 2) == place.view]


def groups(model: Model) -> list[SiteGroup]:
    """Return what is fitted: all sites of the trunk and, as a control, the encoder's last sites."""
    middle = trunk(model)
    found = [
        SiteGroup(middle, tuple(s for s in model.sites() if Site.parse(s).stack == middle.name))
    ]
    encoder = model.stacks.get("enc")
    if encoder is not None and encoder is not middle and encoder.patches:
        last = [site for site in encoder.sites(2) if site.block == encoder.blocks - 1]
        sublayer = encoder.sublayers[-1][-1]
        found.append(SiteGroup(encoder, tuple(str(s) for s in last if s.sublayer == sublayer)))
    return found


@dataclass(frozen=True)
class FitSettings:
    """The settings of a fit, apart from the model and the scenes.

    Attributes:
        whose: Whose targets to fit to. One pass fits them all, on the same patches.
        features: The number of random features. 0 means plain ridge regression.
        seed: The seed of the random features and of the choice of patches.
        random_seed: For a control, the seed of the model's random weights, else None.
        target: What the probes predict.
        token: For a target of pairs, the special token to read. Empty means the mean of the
            patches.
    """

    whose: tuple[Whose, ...] = WHOSE
    features: int = 0
    seed: int = 0
    random_seed: int | None = None
    target: Target = POINTMAP
    token: str = ""

    @property
    def of_pairs(self) -> bool:
        """Whether the target is one of pairs: each view of a scene then gives one row."""
        return self.target.level == PAIR

    @property
    def held_out(self) -> int:
        """The number of held-out scenes, which choose the ridges."""
        return HELD_PAIRS if self.of_pairs else HELD_OUT


def patch_share(model: Model, settings: FitSettings) -> float:
    """Return the share of the patches that the normal equations use.

    It is 1 if all patches cost little enough. Cost is the number of multiplications. The normal
    equations take at most `MOST_COST` of the cost of the blocks, but use at least `LEAST_SHARE` of
    the patches. The share is smallest for small models, since their outputs are wide compared to
    their streams.
    """
    if settings.of_pairs:
        return 1.0
    outputs = settings.target.columns(settings.whose, model.config.patch).width
    forward = sum(
        (4 if sublayer in ATTENTION else 8) * stack.width**2
        for stack in model.stacks.values()
        if stack.patches
        for sublayers in stack.sublayers
        for sublayer in sublayers
    )
    widths = [stack.width + settings.features for stack, sites in groups(model) for _ in sites[::2]]
    equations = sum(w * (w * GRAM_SHARE + outputs) for w in widths)
    return min(1.0, max(LEAST_SHARE, MOST_COST * forward / equations))


def scenes_for(model: Model, settings: FitSettings) -> int:
    """Return the number of scenes to fit on, which is at least 64.

    Together the scenes give 20 patches for each unknown of an output of the trunk's probes. A
    control on a wider encoder has fewer patches for each unknown. For a target of pairs the number
    is 768, whatever the width.
    """
    if settings.of_pairs:
        return PAIRS
    unknowns = trunk(model).width + settings.features + 1
    rows, columns = patch_grid(*model.config.image_size, model.config.patch)
    patches = rows * columns * patch_share(model, settings)
    return max(LEAST_SCENES, ceil(PATCHES_PER_UNKNOWN * unknowns / patches))
