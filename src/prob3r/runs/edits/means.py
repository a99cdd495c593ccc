"""Means over a data set, for mean ablation: of heads, of what sublayers add, and of tokens."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import Model, fingerprint, read_tensors, write_tensors
from prob3r.models.protocol import TokenLayout, layout_of
from prob3r.models.sites import Site, Tap, select
from prob3r.scenes.views import Views

_ADDED = " adds"  # the end of the names of what sublayers add; no site's name ends like this


@dataclass(frozen=True, eq=False)
class Means:
    """The mean output of every head, and the mean of what every sublayer adds.

    The means are over pairs and tokens.

    Attributes:
        values: The means `(k, e)` by attention sublayer (`dec2.3.cross_attn`).
        model: The fingerprint of the model.
        pairs: The number of pairs in the mean.
        added: The mean of what each sublayer adds to the stream, `(d,)`. Files of earlier versions
            hold none.
    """

    values: Mapping[str, Float[Tensor, "k e"]]
    model: str
    pairs: int
    added: Mapping[str, Float[Tensor, " d"]] = field(default_factory=dict)

    def __getitem__(self, sublayer: str) -> Float[Tensor, "k e"]:
        return self.values[sublayer]

    def check(self, weights: str) -> None:
        """Raise Prob3rError unless these are the means of the model of this fingerprint."""
        _check(self.model, weights)

    def save(self, path: Path) -> None:
        """Write the means as one `.safetensors` file, whole or not at all."""
        header = {"means": {"model": self.model, "pairs": self.pairs}}
        added = {f"{site}{_ADDED}": mean for site, mean in self.added.items()}
        write_tensors(path, {**self.values, **added}, header)

    @classmethod
    def load(cls, path: Path) -> "Means":
        """Return the means in a file. Raise Prob3rError if it holds none."""
        values, header = read_tensors(path)
        about: Any = (header or {}).get("means")
        if not isinstance(about, dict) or not {"model", "pairs"} <= about.keys():
            raise Prob3rError(f"{path} holds no means; write them with `prob3r means`.")
        heads = {site: mean for site, mean in values.items() if not site.endswith(_ADDED)}
        added = {site.removesuffix(_ADDED): values[site] for site in values.keys() - heads.keys()}
        return cls(heads, about["model"], about["pairs"], added)


def head_means(
    model: Model, scenes: Iterable[Views], report: Callable[[int], None] = lambda done: None
) -> Means:
    """Return the mean output of every head of a model, and the mean of what its sublayers add.

    Args:
        model: The model.
        scenes: Batches of a data set.
        report: A function that is called with the number of scenes done.

    Raises:
        Prob3rError: There is no scene.
    """
    sums, count = _Sums(), 0
    with torch.no_grad():
        for views in scenes:
            sums.streams.clear()
            model(*views.images, tap=sums)
            count += len(views)
            report(count)
    if not count:
        raise _no_scenes()
    values = {
        str(Site.parse(site).residual): total / sums.patches[site]
        for site, total in sums.totals.items()
    }
    added = {site: total / sums.patches[site] for site, total in sums.added.items()}
    return Means(values, fingerprint(model), count, added)


class _Sums(Tap):
    """Adds up the outputs of every head and what every sublayer adds, over pairs and patches."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.added: dict[str, Tensor] = {}
        self.patches: dict[str, int] = {}
        self.streams: dict[str, Tensor] = {}

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        place = Site.parse(site)
        before, self.streams[place.stream] = self.streams.get(place.stream), tensor
        if before is not None and place.adds:
            b, n, _ = tensor.shape
            added = (tensor.float() - before.float()).sum((0, 1))
            self.added[site] = self.added.get(site, 0) + added
            self.patches[site] = self.patches.get(site, 0) + b * n
        return tensor

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        output = super().attend(site, queries, keys, values)
        b, _, n, _ = output.shape
        self.totals[site] = self.totals.get(site, 0) + output.float().sum((0, 2))
        self.patches[site] = self.patches.get(site, 0) + b * n
        return output


@dataclass(frozen=True, eq=False)
class TokenMeans:
    """The mean and the deviation of every special token, and of all patches, over scenes.

    Attributes:
        values: Two tensors by residual site: the mean and the standard deviation of every channel.
            Each has a row for each special token, in the order of the layout, and one row for all
            patches.
        model: The fingerprint of the model.
        scenes: The number of scenes in the mean.
    """

    values: Mapping[str, tuple[Float[Tensor, "s d"], Float[Tensor, "s d"]]]
    model: str
    scenes: int

    def check(self, weights: str) -> None:
        """Raise Prob3rError unless these are the means of the model of this fingerprint."""
        _check(self.model, weights)


def token_means(model: Model, scenes: Iterable[Views], pattern: str) -> TokenMeans:
    """Return the mean and the deviation of the tokens of a model's residual streams.

    Args:
        model: The model.
        scenes: Batches of a data set, all with the same number of views.
        pattern: The pattern of the residual sites, such as `dec*`.

    Raises:
        Prob3rError: There is no scene, or the pattern matches nothing.
    """
    moments, count = _Moments(model), 0
    with torch.no_grad():
        for views in scenes:
            moments.wanted = frozenset(select(pattern, model.sites(views.count)))
            model(*views.images, tap=moments)
            count += len(views)
    if not count:
        raise _no_scenes()
    values = {
        site: (mean.float(), (square - mean**2).clamp_min(0).sqrt().float())
        for site, (mean, square) in moments.means.items()
    }
    return TokenMeans(values, fingerprint(model), count)


def rows_of_tokens(layout: TokenLayout, tokens: int) -> list[int]:
    """Return the row of `TokenMeans` that each token of a stream has."""
    before, after = len(layout.before), len(layout.after)
    patches = tokens - before - after
    special = range(before + after)
    return [*special[:before], *[before + after] * patches, *special[before:]]


class _Moments(Tap):
    """Adds up the tokens of residual streams, and their squares, over scenes."""

    def __init__(self, model: Model):
        self.model, self.wanted = model, frozenset[str]()
        self.sums: dict[str, Float[Tensor, "2 s d"]] = {}
        self.counts: dict[str, Float[Tensor, " s"]] = {}

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        if site in self.wanted:
            layout = layout_of(self.model, site)
            rows = torch.tensor(rows_of_tokens(layout, tensor.shape[1]), device=tensor.device)
            size = len(layout.special) + 1
            both = torch.stack((tensor, tensor**2)).double().sum(1)
            zero = both.new_zeros(2, size, both.shape[-1])
            self.sums[site] = self.sums.get(site, 0) + zero.index_add(1, rows, both)
            counted = rows.bincount(minlength=size) * len(tensor)
            self.counts[site] = self.counts.get(site, 0) + counted
        return tensor

    @property
    def means(self) -> dict[str, Float[Tensor, "2 s d"]]:
        """The mean of every token and channel, and the mean of the squares."""
        return {
            site: total / self.counts[site].clamp_min(1)[:, None]
            for site, total in self.sums.items()
        }


def _check(mean_of: str, weights: str) -> None:
    if mean_of != weights:
        raise Prob3rError(
            f"These means belong to the model {mean_of}, but this model is {weights}; "
            "give the means of this model."
        )


def _no_scenes() -> Prob3rError:
    return Prob3rError("There are no scenes to take the means over; give at least one.")
