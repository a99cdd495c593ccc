"""Means of heads' outputs over a data set, for mean ablation."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import Model, fingerprint, read_tensors, write_tensors
from prob3r.models.sites import Site, Tap
from prob3r.scenes.views import Views


@dataclass(frozen=True, eq=False)
class Means:
    """The mean output of every head, over pairs and patches.

    Attributes:
        values: The means `(k, e)` by attention sublayer (`dec2.3.cross_attn`).
        model: The fingerprint of the model.
        pairs: The number of pairs in the mean.
    """

    values: Mapping[str, Float[Tensor, "k e"]]
    model: str
    pairs: int

    def __getitem__(self, sublayer: str) -> Float[Tensor, "k e"]:
        return self.values[sublayer]

    def check(self, model: Model) -> None:
        """Raise Prob3rError unless these are the means of this model."""
        if self.model != fingerprint(model):
            raise Prob3rError(
                f"These means are of the model {self.model}, and this one is "
                f"{fingerprint(model)}; give the means of this model."
            )

    def save(self, path: Path) -> None:
        """Write the means as one `.safetensors` file, whole or not at all."""
        header = {"means": {"model": self.model, "pairs": self.pairs}}
        write_tensors(path, dict(self.values), header)

    @classmethod
    def load(cls, path: Path) -> "Means":
        """Return the means in a file. Raise Prob3rError if it holds none."""
        values, header = read_tensors(path)
        about: Any = (header or {}).get("means")
        if not isinstance(about, dict) or not {"model", "pairs"} <= about.keys():
            raise Prob3rError(f"{path} holds no means; write them with `prob3r means`.")
        return cls(values, about["model"], about["pairs"])


def head_means(
    model: Model, scenes: Iterable[Views], report: Callable[[int], None] = lambda done: None
) -> Means:
    """Return the mean output of every head of a model.

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
            model(*views.images, tap=sums)
            count += len(views)
            report(count)
    if not count:
        raise Prob3rError("There are no scenes to take the means over; give at least one.")
    values = {
        str(Site.parse(site).residual): total / sums.patches[site]
        for site, total in sums.totals.items()
    }
    return Means(values, fingerprint(model), count)


class _Sums(Tap):
    """Adds up the outputs of every head, over pairs and patches."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.patches: dict[str, int] = {}

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        output = super().attend(site, queries, keys, values)
        b, _, n, _ = output.shape
        self.totals[site] = self.totals.get(site, 0) + output.float().sum((0, 2))
        self.patches[site] = self.patches.get(site, 0) + b * n
        return output
