"""Replay: run a model over a pair once, and again with edits from the first block they change."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from prob3r.data.pair import Pair
from prob3r.edits import Edit, Editor, Setting
from prob3r.models import DUSt3R, Output, Tokens
from prob3r.sites import Site, Tap
from prob3r.trace import Recorder, Trace, resolve

ENCODER = -1
"""Where a run starts of which the encoder is changed."""


class Replay:
    """A clean run over a batch of pairs, and reruns that share all that comes before an edit.

    Args:
        model: What to run; it is left as it was.
        pair: What to run it over.
        record: Patterns of sites, as for `trace`.

    Attributes:
        clean: The records and the output of the run without edits.

    Raises:
        Prob3rError: A pattern matches no site.
    """

    def __init__(self, model: DUSt3R, pair: Pair, record: str | Iterable[str] = ()):
        self.model, self.pair = model, pair
        self.setting = Setting.of(model, pair)
        self._wanted = resolve(model, record)
        recorder = Recorder(self._wanted, Editor((), self.setting))
        with torch.no_grad():
            self._encoded = model.encode_pair(pair.view1.image, pair.view2.image, recorder)
            self._states = model.decode(*self._encoded, recorder)
            output = self._read(self._states)
        self.clean = recorder.trace(model, pair, output)

    def run(self, edits: Iterable[Edit]) -> Trace:
        """Return the records and the output of a run with edits.

        Raises:
            Prob3rError: An edit does not fit, or touches nothing.
        """
        editor = Editor(edits, self.setting)
        start = first_block(editor)
        again = {site for site in self._wanted if _block(site) >= start}
        recorder = Recorder(again, editor)
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
        return self._rerun(editor, editor, first_block(editor), len(variants))

    @property
    def bytes_per_variant(self) -> int:
        """About how much memory each variant of a stack takes, beside the model."""
        c = self.model.config
        tokens = self.setting.pairs * sum(self.setting.patches)
        # The states of all blocks are kept, and a block has about 16 streams' worth at once.
        streams = tokens * c.dec_width * (c.dec_depth + 1 + 16)
        pixels = tokens * c.patch**2 * 4 * 4
        return 4 * (streams + pixels)

    def _rerun(self, editor: Editor, tap: Tap, start: int, copies: int) -> Output:
        encoded1, encoded2 = self._encoded
        states = None
        with torch.no_grad():
            if start == ENCODER:
                images1, images2 = (
                    repeat(view.image, copies) for view in (self.pair.view1, self.pair.view2)
                )
                encoded1, encoded2 = self.model.encode_pair(images1, images2, tap)
            elif start == 0:
                encoded1, encoded2 = (
                    Tokens(repeat(e.stream, copies), e.grid) for e in self._encoded
                )
            else:
                states1, states2 = (
                    [repeat(state, copies) for state in view[: start + 1]] for view in self._states
                )
                states = states1, states2
                editor.streams = {"dec1": states1[-1], "dec2": states2[-1]}
            return self._read(self.model.decode(encoded1, encoded2, tap, states))

    def _read(self, states: tuple[list[Tensor], list[Tensor]]) -> Output:
        encoded1, encoded2 = self._encoded
        return self.model.read(*states, encoded1.grid, encoded2.grid)


def first_block(editor: Editor) -> int:
    """Return the first decoder block that an editor's changes reach, or `ENCODER`.

    Without any change, that is the last block.
    """
    last = len(editor.setting.model.dec_blocks) - 1
    return min((_block(site) for site in editor.changes), default=last)


def _block(site: str) -> int:
    """Return the decoder block at which a run has to start to reach a site."""
    parsed = Site.parse(site.rpartition(".")[0] if _is_attention(site) else site)
    return ENCODER if parsed.stack == "enc" else parsed.block or 0


def _is_attention(site: str) -> bool:
    return site.count(".") == 3


def repeat(tensor: Tensor, copies: int) -> Tensor:
    """Return a batch repeated as a whole, so many times over."""
    return tensor if copies == 1 else tensor.repeat(copies, *[1] * (tensor.ndim - 1))
