"""A model and probes that know the answer, so that reports can be checked against it."""

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import norm_factor, patch_centres, patch_grid
from prob3r.models import DUSt3R, DUSt3RConfig, Prediction
from prob3r.models.sites import Site, Tap
from prob3r.probes import Decoded, ProbeBank, ProbeConfig
from prob3r.runs.trace import Record
from prob3r.scenes import Pair

CONFIG = DUSt3RConfig((48, 48), 8, 32, 1, 2, 32, 3, 2)


def truth(pair: Pair) -> tuple[Tensor, Tensor]:
    """The true pointmaps of both views, in the pair's unit."""
    unit = norm_factor(pair.points, pair.valid)
    return pair.points[0] / unit, pair.points[1] / unit


class KnowingModel(DUSt3R):
    """A DUSt3R whose output is given, and whose cross-attention falls on the true matches.

    Args:
        pair: A pair with truth.
        points: What it says; the truth by default.
        confidence: Of every pixel.
    """

    def __init__(
        self,
        pair: Pair,
        points: tuple[Tensor, Tensor] | None = None,
        confidence: float = 5.0,
        config: DUSt3RConfig = CONFIG,
    ):
        super().__init__(config)
        self.answer = truth(pair) if points is None else points
        self.confidence = confidence
        patch = config.patch
        self.grid = patch_grid(*pair.view1.size, patch)
        places = patch_centres(*self.grid, patch) / patch
        self.looks = {}
        for view, p in ((2, pair), (1, pair.swap())):
            self.looks[view] = places[p.patch_matches(patch).match[0]], places

    def decode(self, encoded1, encoded2, tap=None):
        return super().decode(encoded1, encoded2, _Looking(tap or Tap(), self.looks))

    def read(self, states1, states2, grid1, grid2) -> Prediction:
        one, two = self.answer
        sure = (torch.full(p.shape[:3], self.confidence) for p in (one, two))
        return Prediction((one, two), tuple(sure))


class _Looking(Tap):
    """Gives cross-attention queries and keys whose likeness is nearness to the match."""

    def __init__(self, tap: Tap, looks: dict[int, tuple[Tensor, Tensor]]):
        self.tap, self.looks = tap, looks

    def known(self, site: str) -> Tensor | None:
        return self.tap.known(site)

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        return self.tap(site, tensor)

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if "cross" in site:
            wanted, places = self.looks[Site.parse(site).view]
            block, k = Site.parse(site).block, torch.arange(queries.shape[1])[None, :, None]
            sharpness = (0.02 * 2.0**block * (1 + k) * queries.shape[-1] ** 0.5)[..., None]
            like = sharpness * torch.cat([2 * wanted, -torch.ones(len(wanted), 1)], 1)
            place = torch.cat([places, places.square().sum(1, keepdim=True)], 1)
            queries, keys = torch.zeros_like(queries), torch.zeros_like(keys)
            queries[..., :3], keys[..., :3] = like, place
        return self.tap.attend(site, queries, keys, values)


class KnowingProbes(ProbeBank):
    """Probes that go from a blurred identity to a given answer as the sites go by.

    Args:
        model: The model.
        answer: Both views' pointmaps at the last site.
        early: How far the first site is from it, 0 for not at all.
    """

    def __init__(self, model: DUSt3R, answer: tuple[Tensor, Tensor], early: float = 0.0):
        like = random_probes(model)
        super().__init__(like.sites, like.config)
        self.answer, self.early = answer, early

    def decode(self, record: Record) -> Decoded:
        place = self.sites.index(record.site) / (len(self.sites) - 1)
        points = self.answer[int(record.site[3]) - 1]
        off = self.early * (1 - place) ** 2
        generator = torch.Generator().manual_seed(self.sites.index(record.site))
        noise = torch.randn(points.shape, generator=generator)
        points = _turned(points, off) * (1 + 0.5 * off) + 0.15 * off * noise
        return Decoded(points, torch.full(points.shape[:3], 1 + 4 * place))


def random_probes(model: DUSt3R) -> ProbeBank:
    """Untrained linear probes of all decoder sites."""
    sites = [site for site in model.sites() if site.startswith("dec")]
    return ProbeBank(sites, ProbeConfig(model.config.dec_width, model.config.patch, 1))


def _turned(points: Float[Tensor, "b h w 3"], angle: float) -> Float[Tensor, "b h w 3"]:
    """Points turned about camera 1's vertical axis by an angle in radians."""
    c, s = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
    return points @ torch.tensor([[c, 0, -s], [0, 1, 0], [s, 0, c]])
