"""Replay: run a model over a pair once, and again with edits from the first block they change."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from prob3r.models import DUSt3R, Output, Tokens, TwoViewModel
from prob3r.models.sites import Site, Tap
from prob3r.runs.edits import Edit, Editor, Setting
from prob3r.runs.trace import Recorder, Trace, resolve
from prob3r.scenes.views import Pair


class Start(NamedTuple):
    """Where a rerun starts.

    Attributes:
        block: The first decoder block that is changed, or `ENCODER`.
        views: Those of which that block is changed; the other's is what it was.
    """

    block: int
    views: tuple[int, ...] = (1, 2)

    @classmethod
    def of(cls, editor: Editor) -> "Start":
        """Return where the first of an editor's changes is; without any, at the last block.

        A model that is no DUSt3R cannot go on from a block, and starts at the beginning.
        """
        model = editor.setting.model
        if not isinstance(model, DUSt3R):
            return cls(ENCODER)
        last = len(model.dec_blocks) - 1
        places = [_place(site) for site in editor.changes]
        block = min((place.block for place in places), default=last)
        views = {view for place in places if place.block == block for view in place.views}
        return cls(block, tuple(sorted(views)) or (1, 2))


ENCODER = -1
"""The block of a run of which the encoder is changed."""


class Replay:
    """A clean run over a batch of pairs, and reruns that share all that comes before an edit.

    Only a DUSt3R can go on from a block; of other models every rerun is a whole one, which gives
    the same.

    Args:
        model: What to run; it is left as it was.
        pair: What to run it over.
        record: Patterns of sites, as for `trace`.

    Attributes:
        clean: The records and the output of the run without edits.

    Raises:
        Prob3rError: A pattern matches no site.
    """

    def __init__(self, model: TwoViewModel, pair: Pair, record: str | Iterable[str] = ()):
        self.model, self.pair = model, pair
        self.setting = Setting.of(model, pair)
        self._wanted = resolve(model, record)
        recorder = Recorder(self._wanted, Editor((), self.setting))
        images = pair.view1.image, pair.view2.image
        self._kept: _Kept | None = None
        with torch.no_grad():
            if isinstance(model, DUSt3R):
                encoded = model.encode_pair(*images, recorder)
                self._kept = _Kept(model, encoded, model.decode(*encoded, recorder))
                output = self._kept.read(self._kept.states)
            else:
                output = model(*images, recorder)
        self.clean = recorder.trace(model, pair, output)

    def run(self, edits: Iterable[Edit]) -> Trace:
        """Return the records and the output of a run with edits.

        Raises:
            Prob3rError: An edit does not fit, or touches nothing.
        """
        editor = Editor(edits, self.setting)
        start = Start.of(editor)
        recorder = Recorder({site for site in self._wanted if _reaches(start, site)}, editor)
        output = self._rerun(editor, recorder, start, 1)
        rerun = recorder.trace(self.model, self.pair, output)
        records = {**self.clean, **rerun}
        return Trace({site: records[site] for site in self.clean}, output)

    def stack(self, variants: Sequence[Sequence[Edit]]) -> Output:
        """Return the outputs of many variants that run as one batch.

        Variants that start at the same block go together well: all of them start at the first.

        Returns:
            `variants * pairs` pointmaps and confidences, all pairs of the first variant first.

        Raises:
            Prob3rError: An edit does not fit, or touches nothing.
        """
        pairs = self.setting.pairs
        moved = [
            replace(edit, pairs=[i * pairs + row for row in edit.rows(self.setting).tolist()])
            for i, variant in enumerate(variants)
            for edit in variant
        ]
        editor = Editor(moved, replace(self.setting, pairs=len(variants) * pairs))
        return self._rerun(editor, editor, Start.of(editor), len(variants))

    @property
    def bytes_per_variant(self) -> int:
        """About how much memory each variant of a stack takes, beside the model."""
        tokens = self.setting.pairs * sum(self.setting.patches)
        if isinstance(self.model, DUSt3R):
            width, kept = self.model.config.dec_width, self.model.config.dec_depth + 1
        else:
            width, kept = max(map(self.model.width, self.model.sites())), 0
        # The states of all blocks are kept, and a block has about 16 streams' worth at once.
        streams = tokens * width * (kept + 16)
        pixels = tokens * self.model.config.patch**2 * 4 * 4
        return 4 * (streams + pixels)

    def _rerun(self, editor: Editor, tap: Tap, start: Start, copies: int) -> Output:
        with torch.no_grad():
            if self._kept is not None and start.block != ENCODER:
                return self._kept.go_on(editor, tap, start, copies)
            images1, images2 = (
                repeat(view.image, copies) for view in (self.pair.view1, self.pair.view2)
            )
            return self.model(images1, images2, tap)


class _Kept(NamedTuple):
    """What a clean run of a DUSt3R leaves for others to go on from.

    Attributes:
        model: What ran.
        encoded: What its encoder gave.
        states: Its decoders' states; see `DUSt3R.decode`.
    """

    model: DUSt3R
    encoded: tuple[Tokens, Tokens]
    states: tuple[list[Tensor], list[Tensor]]

    def go_on(self, editor: Editor, tap: Tap, start: Start, copies: int) -> Output:
        """Return the output of a run that starts at a decoder block."""
        # The view whose block is not changed has the state after it already.
        states1, states2 = (
            [
                repeat(state, copies)
                for state in self.states[view - 1][: start.block + 1 + (view not in start.views)]
            ]
            for view in (1, 2)
        )
        if start.block:
            before = states1[start.block], states2[start.block]
            editor.streams = dict(zip(("dec1", "dec2"), before, strict=True))
        encoded1, encoded2 = self.encoded
        tokens = Tokens(states1[0], encoded1.grid), Tokens(states2[0], encoded2.grid)
        return self.read(self.model.decode(*tokens, tap, (states1, states2)))

    def read(self, states: tuple[list[Tensor], list[Tensor]]) -> Output:
        """Return what the heads make of the decoders' states."""
        return self.model.read(*states, self.encoded[0].grid, self.encoded[1].grid)


def _place(site: str) -> Start:
    """Return where a run has to start for a change at a site."""
    parsed = Site.parse(site.rpartition(".")[0] if site.count(".") == 3 else site)
    if parsed.stack == "enc":
        return Start(ENCODER)
    # Both decoders look at both inputs in their first block.
    return Start(0) if parsed.block is None else Start(parsed.block, (parsed.view,))


def _reaches(start: Start, site: str) -> bool:
    """Return whether a run that starts there comes by a site."""
    place = _place(site)
    if place.block != start.block:
        return place.block > start.block
    # The decoders' inputs are computed again by every run from the first block.
    return site.endswith("embed") or set(place.views) <= set(start.views)


def repeat(tensor: Tensor, copies: int) -> Tensor:
    """Return a batch repeated as a whole, so many times over."""
    return tensor if copies == 1 else tensor.repeat(copies, *[1] * (tensor.ndim - 1))
