"""Baselines: what replaces a part of a model when its effect is computed.

Each has a meaning of its own: nothing (zero ablation), the mean of a data set (mean ablation), the
mean of the tokens of the same view, or another run (activation patching, resample ablation).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import fingerprint
from prob3r.models.protocol import Model, Prediction
from prob3r.models.sites import Site, Tap, attend_jointly
from prob3r.runs.edits import Means
from prob3r.runs.edits.editor import attention_map
from prob3r.scenes.views import Views


class Baseline(ABC):
    """The values that replace a part. A part for which it has no values is left out.

    Attributes:
        words: What replaces a part, as a phrase: `nothing (zero)`.
        has_maps: Whether it has values for attention maps.
    """

    words: ClassVar[str]
    has_maps: ClassVar[bool] = True

    def bind(self, model: Model, views: Views, edges: bool) -> "Baseline":
        """Return the baseline of a model and a batch.

        Args:
            model: The model.
            views: The batch.
            edges: Whether attention maps are asked for too.

        Raises:
            Prob3rError: The baseline does not fit the model or the batch.
        """
        return self

    @abstractmethod
    def heads(
        self, site: str, own: Float[Tensor, "b k n e"]
    ) -> Float[Tensor, "b1 k1 n1 e1"] | None:
        """Return what replaces the outputs of heads. An axis of size 1 stands for all.

        Args:
            site: The name of the attention site, which ends in `.probs`.
            own: The outputs of the run that is explained.
        """

    @abstractmethod
    def added(self, site: str, own: Float[Tensor, "b n d"]) -> Float[Tensor, "b1 n1 d1"] | None:
        """Return what replaces the output that the sublayer of a residual site adds."""

    @abstractmethod
    def stream(self, site: str, own: Float[Tensor, "b n d"]) -> Float[Tensor, "b1 n1 d1"] | None:
        """Return what replaces the whole stream at a residual site."""

    @abstractmethod
    def probs(
        self, site: str, own: Float[Tensor, "b k q m"], span: slice
    ) -> Float[Tensor, "b1 k1 q1 m1"]:
        """Return what replaces the attention of the queries in `span`."""


class Zero(Baseline):
    """Zeros: the part is switched off."""

    words = "nothing (zero)"

    def heads(self, site: str, own: Tensor) -> Tensor:
        """Return a zero."""
        return own.new_zeros(1, 1, 1, 1)

    def added(self, site: str, own: Tensor) -> Tensor:
        """Return a zero."""
        return own.new_zeros(1, 1, 1)

    def stream(self, site: str, own: Tensor) -> Tensor:
        """Return a zero."""
        return own.new_zeros(1, 1, 1)

    def probs(self, site: str, own: Tensor, span: slice) -> Tensor:
        """Return a zero."""
        return own.new_zeros(1, 1, 1, 1)


class TokenMean(Baseline):
    """The mean over the tokens of the same view in the same run: all tokens are then the same."""

    words = "the mean over the tokens of the same view"

    def heads(self, site: str, own: Tensor) -> Tensor:
        """Return the mean output of each head."""
        return own.mean(2, keepdim=True)

    def added(self, site: str, own: Tensor) -> Tensor:
        """Return the mean of what the sublayer adds."""
        return own.mean(1, keepdim=True)

    def stream(self, site: str, own: Tensor) -> Tensor:
        """Return the mean token."""
        return own.mean(1, keepdim=True)

    def probs(self, site: str, own: Tensor, span: slice) -> Tensor:
        """Return uniform attention."""
        return own.new_full((1, 1, 1, 1), 1 / own.shape[-1])


@dataclass(frozen=True, eq=False)
class DataMean(Baseline):
    """The mean over a data set: mean ablation. It has no values for streams and attention maps.

    Attributes:
        means: The means of the model, from `head_means`.
    """

    means: Means
    words = "the mean over a data set"
    has_maps = False

    def bind(self, model: Model, views: Views, edges: bool) -> "DataMean":
        """Return itself. Raise Prob3rError if these are the means of another model."""
        self.means.check(fingerprint(model))
        return self

    def heads(self, site: str, own: Tensor) -> Tensor:
        """Return the mean output of each head."""
        return self.means[str(Site.parse(site).residual)].to(own)[None, :, None]

    def added(self, site: str, own: Tensor) -> Tensor | None:
        """Return the mean of what the sublayer adds, if the means hold it."""
        mean = self.means.added.get(site)
        return None if mean is None else mean.to(own)[None, None]

    def stream(self, site: str, own: Tensor) -> None:
        """Return None: the means hold no streams."""

    def probs(self, site: str, own: Tensor, span: slice) -> Tensor:
        """Raise NotImplementedError: means hold no attention."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class AnotherRun(Baseline):
    """A run over other views: activation patching. With another scene it is resample ablation.

    Attributes:
        views: The other views: as many scenes and views as the run that is explained has, of the
            same sizes.
        output: The model's output for them, or None until the baseline is bound.
    """

    views: Views
    output: Prediction | None = None
    kept: "_Kept | None" = field(default=None, repr=False)
    words = "what it is in another run"

    def bind(self, model: Model, views: Views, edges: bool) -> "AnotherRun":
        """Return the baseline with its run. Raise Prob3rError if the views do not fit."""
        mine, theirs = ([tuple(i.shape) for i in v.images] for v in (self.views, views))
        if mine != theirs:
            raise Prob3rError(
                f"The other run has images of shape {mine}, and the run that is explained has "
                f"{theirs}; give as many scenes and views, of the same sizes."
            )
        kept = _Kept(edges)
        with torch.no_grad():
            output = model(*self.views.images, tap=kept)
        return AnotherRun(self.views, output, kept)

    def heads(self, site: str, own: Tensor) -> Tensor:
        """Return the outputs of the other run."""
        return self._run.heads[site]

    def added(self, site: str, own: Tensor) -> Tensor:
        """Return what the sublayer adds in the other run."""
        return self._run.streams[site] - self._run.streams[self._run.before[site]]

    def stream(self, site: str, own: Tensor) -> Tensor:
        """Return the stream of the other run."""
        return self._run.streams[site]

    def probs(self, site: str, own: Tensor, span: slice) -> Tensor:
        """Return the attention of the other run."""
        queries, keys = self._run.maps[site]
        return attention_map(queries[:, :, span], keys)

    @property
    def _run(self) -> "_Kept":
        assert self.kept is not None  # `bind` has made the run
        return self.kept


class _Kept(Tap):
    """Records everything that a baseline needs from the other run."""

    def __init__(self, edges: bool):
        self.edges = edges
        self.streams: dict[str, Tensor] = {}
        self.before: dict[str, str] = {}
        self.heads: dict[str, Tensor] = {}
        self.maps: dict[str, tuple[Tensor, Tensor]] = {}
        self._latest: dict[str, str] = {}

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        stream = Site.parse(site).stream
        if stream in self._latest:
            self.before[site] = self._latest[stream]
        self._latest[stream] = site
        self.streams[site] = tensor
        return tensor

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        output = super().attend(site, queries, keys, values)
        self._keep(site, output, queries, keys)
        return output

    def attend_views(
        self, sites: Sequence[str], queries: Sequence[Tensor], keys: Tensor, values: Tensor
    ) -> list[Tensor]:
        outputs = attend_jointly(queries, keys, values)
        for site, output, own in zip(sites, outputs, queries, strict=True):
            self._keep(site, output, own, keys)
        return outputs

    def _keep(self, site: str, output: Tensor, queries: Tensor, keys: Tensor) -> None:
        self.heads[site] = output
        if self.edges:
            self.maps[site] = queries, keys
