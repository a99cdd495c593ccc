"""Path patching: the exact direct effect of one part of a model on a later sublayer.

The sender is the part of the model that is changed: a head, or the output of a sublayer. The
receiver is a later sublayer. The change can reach the receiver along many paths. The direct path is
the residual stream alone: the receiver reads the stream with the sender's change, and every
sublayer between them gives its clean output. The receiver's new output is then put into the run,
and everything after the receiver is computed from it (Wang et al., "Interpretability in the wild",
ICLR 2023; Goldowsky-Dill et al., "Localizing model behavior with path patching", 2023).
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models.protocol import Model, MultiViewModel, Prediction
from prob3r.models.sites import Site, Tap, TapAround
from prob3r.runs.edits import Edit, Editor, Transplant
from prob3r.runs.replay import Replay
from prob3r.runs.trace import Done
from prob3r.scenes.views import Views

OUTPUT = "output"
"""The name of the receiver that stands for the model's own heads."""


@dataclass(frozen=True)
class Sent:
    """The change of a residual stream that a sender makes.

    Attributes:
        site: The residual site of the sender's sublayer.
        change: The difference that the sender makes to the stream, `(b, n, d)`.
    """

    site: str
    change: Float[Tensor, "b n d"]


class Paths:
    """The direct paths between parts of a model, over a batch of scenes.

    Args:
        model: The model. It is not changed. It must be one of prob3r's own, since a model behind
            an adapter does not say what its sublayers read.
        views: The batch of scenes.

    Attributes:
        clean: The model's output without any change.

    Raises:
        Prob3rError: The model is behind an adapter.
    """

    def __init__(self, model: Model, views: Views):
        if not isinstance(model, MultiViewModel):
            raise Prob3rError(
                f"A {type(model).__name__} does not say what its sublayers read, and path patching "
                "needs that; take a model of prob3r's own architectures."
            )
        self.model, self.views = model, views
        self._replay = Replay(model, views, "*")
        output = self._replay.clean.output
        assert output is not None  # a replay always has it
        self.clean: Prediction = output
        self._streams = {site: Tensor(record) for site, record in self._replay.clean.items()}
        self._sites = model.sites(views.count)

    def send(self, edit: Edit) -> Sent:
        """Return the change of the residual stream that an edit of one sublayer makes.

        Raises:
            Prob3rError: The edit does not fit, or changes several sublayers.
        """
        editor = Editor([edit], self._replay.setting)
        sites = {str(Site.parse(site).residual) for site in editor.changes}
        if len(sites) > 1:
            raise Prob3rError(
                f"'{edit.site}' matches {len(sites)} sublayers, but only one can be the sender; "
                "name one sublayer."
            )
        (site,) = sites
        before = self.model.reads(site, self.views.count)[:1]
        if before and Site.parse(before[0]).stream == Site.parse(site).stream:
            editor.streams[Site.parse(site).stream] = self._streams[before[0]]
        return Sent(site, self._sublayer(site, {}, editor) - self._streams[site])

    def receivers(self, sent: Sent) -> list[str]:
        """Return the later sublayers that read the sender's stream, and `OUTPUT` if heads do."""
        found = [site for site in self._sites if self._read_by(site, sent)]
        heads = self.model.head_sites(self.views.count)
        return [*found, OUTPUT] if self._changed(heads, sent) else found

    def through(self, sent: Sent, receiver: str) -> Prediction:
        """Return the model's output if the change reaches one receiver alone, by the direct path.

        Args:
            sent: The change.
            receiver: The residual site of a sublayer, or `OUTPUT`.

        Raises:
            Prob3rError: The receiver is unknown, or reads nothing that the sender changes.
        """
        if receiver == OUTPUT:
            changed = self._changed(self.model.head_sites(self.views.count), sent)
            if not changed:
                raise self._apart(sent, receiver)
            with torch.no_grad():
                return self.model(*self.views.images, tap=_Known({**self._streams, **changed}))
        if receiver not in self._sites:
            raise Prob3rError(
                f"'{receiver}' is neither a residual site of this model nor '{OUTPUT}'."
            )
        changed = self._read_by(receiver, sent)
        if not changed:
            raise self._apart(sent, receiver)
        stream = self._sublayer(receiver, changed, Tap())
        place = Site.parse(receiver)
        if place.adds and place.stream == Site.parse(sent.site).stream:
            stream = stream - sent.change  # only the change of the receiver's own output goes on
        output = self._replay.run([Transplant(receiver, {receiver: stream})]).output
        assert output is not None  # a replay always has it
        return output

    def _read_by(self, site: str, sent: Sent) -> dict[str, Tensor]:
        """Return the streams that a sublayer reads and the sender changes, with the change."""
        return self._changed(self.model.reads(site, self.views.count), sent)

    def _changed(self, sites: Sequence[str], sent: Sent) -> dict[str, Tensor]:
        stream, start = Site.parse(sent.site).stream, self._sites.index(sent.site)
        return {
            site: self._streams[site] + sent.change
            for site in sites
            if Site.parse(site).stream == stream and self._sites.index(site) >= start
        }

    def _sublayer(
        self, site: str, changed: Mapping[str, Tensor], tap: Tap
    ) -> Float[Tensor, "b n d"]:
        """Return the stream after one sublayer that runs alone, with some of its inputs changed."""
        before = self._sites[: self._sites.index(site)]
        streams = {name: self._streams[name] for name in before}
        known = _Known({**streams, **changed}, site, tap)
        with torch.no_grad(), suppress(Done):
            self.model(*self.views.images, tap=known)
        assert known.found is not None  # every site fires
        return known.found

    def _apart(self, sent: Sent, receiver: str) -> Prob3rError:
        some = ", ".join(self.receivers(sent)[:3])
        return Prob3rError(
            f"'{receiver}' reads nothing that '{sent.site}' changes directly; receivers are "
            f"{some}, …."
        )


class _Known(TapAround):
    """Gives a model known streams, passes one sublayer to a tap, and then ends the run.

    Attributes:
        found: The stream after the sublayer, once it has run.
    """

    def __init__(self, streams: Mapping[str, Tensor], site: str = "", tap: Tap | None = None):
        self.streams, self.site = streams, site
        self.tap = Tap() if tap is None else tap
        self.found: Tensor | None = None

    def known(self, site: str) -> Tensor | None:
        return self.streams.get(site)

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        if site != self.site:  # of another view in the same batch
            return tensor
        self.found = self.tap(site, tensor)
        raise Done
