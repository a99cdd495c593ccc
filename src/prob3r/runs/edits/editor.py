"""The editor: a tap that makes changes while a model runs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models.sites import Site, Tap, attend_jointly
from prob3r.runs.edits.changes import (
    Change,
    GivenMap,
    GivenOutput,
    GivenStream,
    HeadChange,
    MapChange,
    MaskedEdges,
    Recoded,
    StreamChange,
)
from prob3r.runs.edits.edit import Edit, Setting


class Editor(Tap):
    """Applies several edits while the model runs. The order of the edits does not matter.

    Args:
        edits: The edits.
        setting: The model and the batch.

    Attributes:
        changes: The changes of each site.
        streams: The latest stream of each stack and view, by names such as `dec2`. A run that
            resumes in the middle sets them.

    Raises:
        Prob3rError: An edit does not fit, or two edits replace the same tokens.
    """

    def __init__(self, edits: Iterable[Edit], setting: Setting):
        self.setting = setting
        by_site: dict[str, list[Change]] = defaultdict(list)
        for edit in edits:
            for change in edit.bind(setting):
                by_site[change.site].append(change)
        for site, changes in by_site.items():
            changes.sort(key=lambda change: change.rank)
            _check_collisions(site, changes, setting)
        self.changes: Mapping[str, list[Change]] = by_site
        self._sublayers = {str(Site.parse(site).residual) for site in by_site}
        self._heads = {
            site: _Heads(made, setting)
            for site, made in by_site.items()
            if Site.parse(site).reading
        }
        self.streams: dict[str, Float[Tensor, "b n d"]] = {}
        self._silent: dict[str, Bool[Tensor, "b n"]] = {}

    def wants(self, site: str) -> bool:
        """Return whether anything of a sublayer is changed."""
        return site in self._sublayers

    def __call__(self, site: str, tensor: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Return the stream after the changes at this site."""
        stream = Site.parse(site).stream
        before = self.streams.get(stream, tensor)  # a stack's input has no sublayer before it
        if site in self._silent:
            tensor = before.where(self._silent.pop(site)[..., None], tensor)
        for change in self.changes.get(site, ()):
            assert isinstance(change, StreamChange)
            rows = change.rows
            tensor = tensor.index_put((rows,), change.apply(tensor[rows], before[rows]))
        self.streams[stream] = tensor
        return tensor

    def attend(
        self,
        site: str,
        queries: Float[Tensor, "b k n e"],
        keys: Float[Tensor, "b k m e"],
        values: Float[Tensor, "b k m e"],
    ) -> Float[Tensor, "b k n e"]:
        """Return the heads' outputs after the changes at this site."""
        return self._changed(
            site, super().attend(site, queries, keys, values), queries, keys, values
        )

    def attend_views(
        self, sites: Sequence[str], queries: Sequence[Tensor], keys: Tensor, values: Tensor
    ) -> list[Tensor]:
        """Return the heads' outputs of joint attention after the changes at these sites."""
        plain = attend_jointly(queries, keys, values)
        return [
            self._changed(site, output, q, keys, values)
            for site, output, q in zip(sites, plain, queries, strict=True)
        ]

    def _changed(
        self, site: str, output: Tensor, queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        heads = self._heads.get(site)
        if heads is None:
            return output
        output, silent = heads.attend(output, queries, keys, values)
        if silent is not None:
            self._silent[str(Site.parse(site).residual)] = silent
        return output

    def attention_map(
        self,
        site: str,
        queries: Float[Tensor, "b k n e"],
        keys: Float[Tensor, "b k m e"],
        span: slice,
    ) -> Float[Tensor, "b k q m"]:
        """Return the rows of the changed attention map for the queries in `span`."""
        probs = attention_map(queries[:, :, span], keys)
        heads = self._heads.get(site)
        return probs if heads is None else heads.edit(probs, span)


class _Heads:
    """The changes at one attention site.

    Changes of the map run on the changed heads alone. Slot `s` holds head `heads[s]` of scene
    `rows[s]`.
    """

    def __init__(self, changes: list[Change], setting: Setting):
        self.maps = [c for c in changes if isinstance(c, MapChange)]
        self.outputs = [c for c in changes if isinstance(c, GivenOutput)]
        count = setting.heads(Site.parse(changes[0].site))
        touched = torch.zeros(setting.scenes, count, dtype=torch.bool, device=setting.device)
        for change in self.maps:
            touched[_block(change)] = True
        self.rows, self.heads = touched.nonzero(as_tuple=True)
        slots = touched.long()
        slots[touched] = torch.arange(len(self.rows), device=setting.device)
        self.slots = [slots[_block(change)] for change in self.maps]

    def attend(
        self, output: Tensor, queries: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Bool[Tensor, "b n"] | None]:
        """Return the outputs, and the mask of queries whose keys are all masked in every head."""
        silent = None
        if self.maps:
            here = (self.rows, self.heads)
            chosen = queries[here], keys[here], values[here]
            masked = self._masked(queries.shape[2], keys.shape[2])
            nothing = masked.all(-1)
            if all(isinstance(change, MaskedEdges) for change in self.maps):
                # A query without any key gets all keys here, since kernels disagree on such rows.
                seen = ~masked | nothing[..., None]
                edited = F.scaled_dot_product_attention(*chosen, attn_mask=seen)
                output = output.index_put(here, edited.masked_fill(nothing[..., None], 0))
            else:
                # Add the difference, so that a map replaced by itself changes no bit of the output.
                own = attention_map(*chosen[:2])
                difference = (self._edit(own, slice(None)) - own).to(chosen[2]) @ chosen[2]
                output = output.index_put(here, difference, accumulate=True)
            if nothing.any():
                alone = torch.zeros(
                    queries.shape[:3], dtype=torch.bool, device=queries.device
                ).index_put(here, nothing)
                silent = alone.all(1)
        for change in self.outputs:
            block = _block(change)
            output = output.index_put(block, change.apply(output[block]))
        return output, silent

    def edit(self, probs: Float[Tensor, "b k q m"], span: slice) -> Float[Tensor, "b k q m"]:
        """Return the map of the whole batch after the changes."""
        here = (self.rows, self.heads)
        return probs.index_put(here, self._edit(probs[here], span)) if self.maps else probs

    def _edit(self, probs: Float[Tensor, "s q m"], span: slice) -> Float[Tensor, "s q m"]:
        for change, slots in zip(self.maps, self.slots, strict=True):
            probs = probs.index_put((slots,), change.apply(probs[slots], span))
        return probs

    def _masked(self, n: int, m: int) -> Bool[Tensor, "s n m"]:
        """Return the mask of the edges that are cut, for every slot."""
        masked = torch.zeros(len(self.rows), n, m, dtype=torch.bool, device=self.rows.device)
        for change, slots in zip(self.maps, self.slots, strict=True):
            if isinstance(change, MaskedEdges):
                masked[slots] |= change.edges(slice(None))
        return masked


def attention_map(
    queries: Float[Tensor, "*b n e"], keys: Float[Tensor, "*b m e"]
) -> Float[Tensor, "*b n m"]:
    """Return the attention of queries to keys, both after the rotary embedding.

    It is in float32 at least, whatever the model runs in.
    """
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def _block(change: HeadChange) -> tuple[Tensor, ...]:
    """Return the index of a change's heads in a batch of heads."""
    return change.rows[:, None], change.heads


def _check_collisions(site: str, changes: list[Change], setting: Setting) -> None:
    """Raise Prob3rError if two changes replace the same tokens.

    Cut edges combine in any order. A map, an output or a stream can be replaced once.
    """
    place = Site.parse(site)
    heads = setting.heads(place) if place.reading else 1
    patches = len(setting.queries(place))
    for kind in (GivenMap, GivenOutput, GivenStream, Recoded):
        taken = torch.zeros(setting.scenes, heads, patches, dtype=torch.int, device=setting.device)
        for change in changes:
            if isinstance(change, kind):
                index = _block(change) if isinstance(change, HeadChange) else (change.rows,)
                where = change.queries if isinstance(change, GivenMap) else change.patches
                taken[index] += where if isinstance(change, HeadChange) else where[:, None]
        if (taken > 1).any():
            raise Prob3rError(
                f"Two edits at '{place.residual}' replace the same tokens; keep one of them."
            )
