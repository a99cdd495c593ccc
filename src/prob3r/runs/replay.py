"""Replay: run a model once, then rerun with edits only the sublayers that the edits change."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prob3r.models.protocol import Model, MultiViewModel, Prediction, stack_of, trunk
from prob3r.models.sites import Site, Tap, TapAround
from prob3r.runs.edits import Edit, Editor, Setting
from prob3r.runs.trace import Recorder, Trace, resolve
from prob3r.scenes.views import Views


class Replay:
    """A clean run over a batch of scenes, and reruns that reuse what an edit does not change.

    A rerun computes only the sublayers that read, directly or through others, what the edits
    change. The streams of all other sublayers come from the clean run. A model from `Adapter` does
    not say what its sublayers read: it runs again as a whole, with the same result.

    Args:
        model: The model. It is not changed.
        views: The batch of scenes.
        record: Patterns of sites, as for `trace`.

    Attributes:
        clean: The records and the output of the run without edits.

    Raises:
        Prob3rError: A pattern matches no site.
    """

    def __init__(self, model: Model, views: Views, record: str | Iterable[str] = ()):
        self.model, self.views = model, views
        self.setting = Setting.of(model, views)
        self._wanted = resolve(model, record, views.count)
        self._sites = model.sites(views.count)
        self._reads: dict[str, list[str]] = {}
        if isinstance(model, MultiViewModel):
            self._reads = {site: model.reads(site, views.count) for site in self._sites}
        kept = shared_sites(model, self._sites)
        recorder = Recorder(self._wanted.union(kept), Editor((), self.setting))
        with torch.no_grad():
            output = model(*views.images, tap=recorder)
        every = recorder.trace(model, views, output)
        self.clean = Trace({site: every[site] for site in every if site in self._wanted}, output)
        self._streams = {site: recorder.records[site] for site in kept}

    def changed(self, sites: Iterable[str]) -> frozenset[str]:
        """Return the residual sites whose streams change if these attention or residual sites do.

        The result is all sites if the model does not say what its sublayers read.
        """
        if not isinstance(self.model, MultiViewModel):
            return frozenset(self._sites)
        changed = {str(Site.parse(site).residual) for site in sites}
        for site in self._sites:
            if not changed.isdisjoint(self._reads[site]):
                changed.add(site)
        return frozenset(changed)

    def run(self, edits: Iterable[Edit]) -> Trace:
        """Return the records and the output of a run with edits.

        Raises:
            Prob3rError: An edit does not fit, or changes nothing.
        """
        editor = Editor(edits, self.setting)
        changed = self.changed(editor.changes)
        wanted = {site for site in self._wanted if str(Site.parse(site).residual) in changed}
        recorder = Recorder(wanted, editor)
        with torch.no_grad():
            output = self._rerun(recorder, changed, 1, editor.streams)
        records = {**self.clean, **recorder.trace(self.model, self.views, output)}
        return Trace({site: records[site] for site in self.clean}, output)

    def stack(self, variants: Sequence[Sequence[Edit]]) -> Prediction:
        """Return the outputs of many variants that run as one batch.

        Every variant computes all that any of them needs. Therefore stack variants that change the
        same sites.

        Returns:
            `variants * scenes` pointmaps and confidences, all scenes of the first variant first.

        Raises:
            Prob3rError: An edit does not fit, or changes nothing.
        """
        scenes = self.setting.scenes
        moved = [
            replace(edit, scenes=[i * scenes + row for row in edit.rows(self.setting).tolist()])
            for i, variant in enumerate(variants)
            for edit in variant
        ]
        editor = Editor(moved, replace(self.setting, scenes=len(variants) * scenes))
        with torch.no_grad():
            changed = self.changed(editor.changes)
            return self._rerun(editor, changed, len(variants), editor.streams)

    def follow(self, tap: Tap, sites: Iterable[str], copies: int = 1) -> Prediction:
        """Return the output of a run with a tap that changes the tensors at some sites.

        Unlike `run` and `stack`, gradients are kept where they are enabled.

        Args:
            tap: The tap. It is called at the sublayers that the run computes.
            sites: The attention or residual sites that the tap changes.
            copies: How often the batch of scenes is repeated.
        """
        return self._rerun(tap, self.changed(sites), copies, {})

    @property
    def bytes_per_variant(self) -> int:
        """The approximate memory of each variant of a stack in bytes, without the model."""
        tokens = self.setting.scenes * sum(self.setting.patches)
        last = stack_of(self.model, self._sites[-1])
        kept = last.blocks + 1 if self._streams else 0
        # The stream after every block is kept, and one block holds about 16 streams at its peak.
        streams = tokens * last.width * (kept + 16)
        pixels = tokens * self.model.config.patch**2 * 4 * 4
        return 4 * (streams + pixels)

    def _rerun(
        self, tap: Tap, changed: frozenset[str], copies: int, streams: dict[str, Tensor]
    ) -> Prediction:
        if not isinstance(self.model, MultiViewModel):
            images = [repeat(image, copies) for image in self.views.images]
            return self.model(*images, tap=tap)
        reads = {site: self._reads[site] for site in changed}
        needed = {read for sites in reads.values() for read in sites}
        needed.update(self.model.head_sites(self.views.count))
        # A model may run all views of a sublayer as one batch, so all are repeated or none.
        places = {Site.parse(site).of(1) for site in needed}
        shared = {s: t for s, t in self._streams.items() if s not in changed}
        resumed = _Resumed(tap, streams, shared, places, copies)
        # If anything in the encoder changes, the whole encoder runs again.
        kept = self._streams.keys()
        whole = any(not sites or not kept >= {*sites} for sites in reads.values())
        fresh = copies if whole else 1
        return self.model(*(repeat(image, fresh) for image in self.views.images), tap=resumed)


@dataclass
class _Resumed(TapAround):
    """Gives a model the streams of the clean run that the edits do not change.

    Attributes:
        tap: The tap of the sites that are computed.
        streams: The latest stream of each stack and view, as an editor needs them.
        shared: The streams of the clean run, by site.
        places: The sites whose streams every variant needs, written as sites of view 1.
        copies: The number of variants in the batch.
    """

    tap: Tap
    streams: dict[str, Tensor]
    shared: Mapping[str, Tensor]
    places: Collection[Site]
    copies: int

    def wants(self, site: str) -> bool:
        return self.tap.wants(site)

    def known(self, site: str) -> Tensor | None:
        if site not in self.shared:
            return None
        place, stream = Site.parse(site), self.shared[site]
        if place.of(1) in self.places:
            stream = self.streams[place.stream] = repeat(stream, self.copies)
        return stream

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        return self.tap(site, tensor)


def shared_sites(model: Model, sites: Iterable[str]) -> list[str]:
    """Return the sites whose streams reruns reuse: those of the trunk, and the input of the trunk.

    The list is empty if the model does not say what its sublayers read.
    """
    if not isinstance(model, MultiViewModel):
        return []
    names = list(model.stacks)
    encoders = names[: names.index(trunk(model).name)]
    ends = {model.before(Site(name, 1, model.stacks[name].blocks, "")) for name in encoders}
    places = {site: Site.parse(site) for site in sites}
    return [s for s, place in places.items() if place.stack not in encoders or place.of(1) in ends]


def repeat(tensor: Tensor, copies: int) -> Tensor:
    """Return a batch repeated `copies` times."""
    return tensor if copies == 1 else tensor.repeat(copies, *[1] * (tensor.ndim - 1))
