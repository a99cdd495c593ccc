"""Run a model over views, with or without edits, and record the requested sites alone."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import entropy, patch_grid
from prob3r.models.protocol import Model, Prediction, TokenLayout, layout_of
from prob3r.models.sites import HEADS, PROBS, Site, Tap, select
from prob3r.runs.edits import Edit, Editor, Setting
from prob3r.scenes.views import Views

CHUNK_ELEMENTS = 2**24  # attention probabilities built at once, which bounds the memory


@dataclass(frozen=True)
class Reduction:
    """A summary of an attention map, computed for a few queries at a time.

    Attributes:
        reduce: A function of the probabilities `(b, k, q, m)` of some queries. It returns a tensor
            `(b, k, q, ...)`, or one of any shape if it sums over the queries.
        over_queries: Whether the parts are added and divided by the number of queries. Otherwise
            they are joined along the query axis.
        by_view: Whether `reduce` is given the patches of one view among the keys at a time. The
            answers are joined along their last axis, in the order of `Site.key_views`.
    """

    reduce: Callable[[Tensor], Tensor]
    over_queries: bool = False
    by_view: bool = False


REDUCTIONS: Mapping[str, Reduction] = {
    "probs": Reduction(lambda probs: probs),
    "argmax": Reduction(lambda probs: probs.argmax(-1)),
    "entropy": Reduction(entropy),
    "mass": Reduction(lambda probs: probs.sum(2), over_queries=True),
}
"""The reductions of an attention site by the last part of a name: `dec2.3.cross_attn.argmax`.

`probs` is the full map `(b, k, q, m)`, `argmax` the most attended key of each query `(b, k, q)`,
and `entropy` the entropy of each query's attention in nats `(b, k, q)`. `mass` is the attention
mass of each key `(b, k, m)`: the attention that it receives, averaged over queries.
"""


def attention_on(keys: Tensor) -> Reduction:
    """Return the reduction to each query's attention on chosen keys, `(b, k, q)`.

    Args:
        keys: Their indices `(i,)`, or a mask `(b, m)` of them.
    """
    if keys.dtype == torch.bool:
        return Reduction(lambda probs: (probs * keys[:, None, None].to(probs)).sum(-1))
    return Reduction(lambda probs: probs[..., keys].sum(-1))


class Record(Tensor):
    """A recorded tensor with its origin. What is computed from it is a plain tensor.

    Attributes:
        site: The requested name.
        grid: Rows and columns of the patches of the view it belongs to.
        tokens: Where special tokens stand in the stream it belongs to.
    """

    site: str
    grid: tuple[int, int]
    tokens: TokenLayout

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def of(cls, tensor: Tensor, site: str, grid: tuple[int, int], tokens: TokenLayout) -> "Record":
        """Return the tensor with its origin."""
        record = tensor.detach().as_subclass(cls)
        record.site, record.grid, record.tokens = site, grid, tokens
        return record

    @property
    def patches(self) -> Float[Tensor, "b n d"]:
        """The patches of a residual stream, without special tokens."""
        return self[:, self.tokens.patches(self.shape[1])]

    def token(self, name: str) -> Float[Tensor, "b d"]:
        """Return a special token of a residual stream. Raise Prob3rError if there is none."""
        return self[:, self.tokens.index(name, self.shape[1])]


@dataclass(frozen=True)
class Trace(Mapping[str, Record]):
    """The records of a run by site, and the model's output.

    Attributes:
        records: In the order in which the sites fired.
        output: None if the run stopped after the last requested site.
    """

    records: Mapping[str, Record]
    output: Prediction | None = None

    def __getitem__(self, site: str) -> Record:
        try:
            return self.records[site]
        except KeyError:
            kept = ", ".join(list(self.records)[:4])
            raise Prob3rError(f"'{site}' was not recorded; this trace holds {kept}, …") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


def trace(
    model: Model,
    views: Views,
    record: str | Iterable[str] = (),
    edits: Iterable[Edit] = (),
    *,
    output: bool = True,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    reductions: Mapping[str, Reduction] = REDUCTIONS,
    call: Callable[..., Any] | None = None,
) -> Trace:
    """Run a model over the views of a scene, or a batch of scenes, and record sites.

    Args:
        model: The model. It is not changed.
        views: The scene, or the batch of scenes.
        record: Patterns of sites. One that ends in the name of a reduction asks for attention
            (`dec2.*.cross_attn.probs`), one that ends in `heads` for the outputs of the heads,
            and any other for the residual stream (`dec2.*`), `(b, n, d)`.
        edits: Changes to the run. The records are those of the changed run.
        output: Whether to run the heads. Without them the run stops after the last site.
        dtype: The type of the residual records. The default is the type of the computation.
        device: The device of the records. The default is the device of the computation.
        reductions: The reductions of attention sites, by name.
        call: How to run the model, if it takes more than images: a function of the images and of
            `tap`. With known cameras: `partial(model, cameras=cameras)`. To complete a view:
            `lambda *images, tap: model.complete(*images, mask, tap=tap)`. It returns a
            `Prediction`; with `output=False` it can return anything.

    Raises:
        Prob3rError: A pattern matches no site, a site never fired, or an edit does not fit.
    """
    editor = Editor(edits, Setting.of(model, views))
    wanted = resolve(model, record, views.count, reductions)
    recorder = Recorder(wanted, editor, reductions, dtype, device, stop=not output)
    result: Prediction | None = None
    with torch.no_grad(), suppress(Done):
        result = (call or model)(*views.images, tap=recorder)
    return recorder.trace(model, views, result)


def resolve(
    model: Model,
    record: str | Iterable[str],
    views: int = 2,
    reductions: Mapping[str, Reduction] = REDUCTIONS,
) -> set[str]:
    """Return the sites that match patterns. Raise Prob3rError if a pattern matches nothing.

    Args:
        model: The model.
        record: The patterns.
        views: The number of views.
        reductions: The reductions of attention sites, by name.
    """
    found: set[str] = set()
    for pattern in [record] if isinstance(record, str) else record:
        stem, _, last = pattern.rpartition(".")
        if last in reductions or last == HEADS:
            sites = select(f"{stem}.{PROBS}", model.attention_sites(views))
            found |= {str(Site.parse(site).read(last)) for site in sites}
        else:
            found |= set(select(pattern, model.sites(views)))
    return found


class Done(Exception):  # noqa: N818 - a signal, not an error
    """Ends a run after the last site that is needed."""


@dataclass
class Recorder(Tap):
    """Records sites of a run, after the changes of an editor.

    Attributes:
        wanted: The names of the sites, from `resolve`.
        editor: The edits.
        reductions: The reductions of attention sites, by name.
        dtype: The type of the residual records. The default is the type of the computation.
        device: The device of the records. The default is the device of the computation.
        stop: Whether to end the run once everything is recorded.
        records: The records so far, by site.
    """

    wanted: set[str]
    editor: Editor
    reductions: Mapping[str, Reduction] = field(default_factory=lambda: REDUCTIONS)
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    stop: bool = False
    records: dict[str, Tensor] = field(default_factory=dict)

    def wants(self, site: str) -> bool:
        """Return whether anything of a sublayer is recorded or changed."""
        return site in self._sublayers or self.editor.wants(site)

    @cached_property
    def _sublayers(self) -> frozenset[str]:
        """The residual sites of the sublayers of which anything is recorded."""
        return frozenset(str(Site.parse(name).residual) for name in self.wanted)

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        """Return the stream after the changes at this site."""
        tensor = self.editor(site, tensor)
        if site in self.wanted:
            self._keep(site, tensor.to(dtype=self.dtype or tensor.dtype))
        return tensor

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the heads' outputs after the changes at this site."""
        self._keep_attention(site, queries, keys)
        output = self.editor.attend(site, queries, keys, values)
        self._keep_heads(site, output)
        return output

    def attend_views(
        self, sites: Sequence[str], queries: Sequence[Tensor], keys: Tensor, values: Tensor
    ) -> list[Tensor]:
        """Return the heads' outputs of joint attention after the changes at these sites."""
        for site, own in zip(sites, queries, strict=True):
            self._keep_attention(site, own, keys)
        outputs = self.editor.attend_views(sites, queries, keys, values)
        for site, output in zip(sites, outputs, strict=True):
            self._keep_heads(site, output)
        return outputs

    def trace(self, model: Model, views: Views, output: Prediction | None) -> Trace:
        """Return the trace. Raise Prob3rError if a requested site never fired."""
        if silent := self.wanted - self.records.keys():
            raise Prob3rError(f"The site '{min(silent)}' never fired in this model.")
        grids = [patch_grid(*view.size, model.config.patch) for view in views.views]
        records = {
            site: Record.of(tensor, site, grids[Site.parse(site).view - 1], layout_of(model, site))
            for site, tensor in self.records.items()
        }
        return Trace(records, output)

    def _keep_attention(self, site: str, queries: Tensor, keys: Tensor) -> None:
        place = Site.parse(site)
        for name, reduction in self.reductions.items():
            if (read := str(place.read(name))) in self.wanted:
                self._keep(read, self._reduced(site, reduction, queries, keys))

    def _keep_heads(self, site: str, output: Tensor) -> None:
        if (read := str(Site.parse(site).read(HEADS))) in self.wanted:
            self._keep(read, output)

    def _keep(self, site: str, tensor: Tensor) -> None:
        kept = tensor.to(self.device or tensor.device)
        # Views that ran as one batch share memory. A record of some of them must not keep it all.
        if kept.untyped_storage().nbytes() > kept.nbytes and not self._of_all_views(site):
            kept = kept.clone()
        self.records[site] = kept
        if self.stop and self.records.keys() == self.wanted:
            raise Done

    def _of_all_views(self, site: str) -> bool:
        """Return whether the same record is wanted of every view."""
        place, views = Site.parse(site), range(1, self.editor.setting.views + 1)
        return all(str(place.of(view)) in self.wanted for view in views)

    def _reduced(
        self,
        site: str,
        reduction: Reduction,
        queries: Float[Tensor, "b k n e"],
        keys: Float[Tensor, "b k m e"],
    ) -> Tensor:
        """Return a reduction of the attention map, computed for a chunk of queries at a time."""
        b, k, n, _ = queries.shape
        size = max(1, CHUNK_ELEMENTS // (b * k * keys.shape[2]))
        spans = [slice(start, start + size) for start in range(0, n, size)]
        maps = (self.editor.attention_map(site, queries, keys, span) for span in spans)
        if reduction.by_view:
            views = self.editor.setting.keys(site).patches
            parts = [torch.cat([reduction.reduce(m[..., v]) for v in views], -1) for m in maps]
        else:
            parts = [reduction.reduce(m) for m in maps]
        return torch.stack(parts).sum(0) / n if reduction.over_queries else torch.cat(parts, 2)
