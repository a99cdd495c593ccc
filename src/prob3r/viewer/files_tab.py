"""The tabs for comparison with other models and probes, and for photographs and downloads."""

from collections.abc import Callable
from html import escape
from typing import Any

import viser

from prob3r.errors import Prob3rError
from prob3r.reliability.matchers import best_matcher
from prob3r.viewer import saving, tables
from prob3r.viewer.experiment import Experiment
from prob3r.viewer.sources import ViewsSource
from prob3r.viewer.tabs import NOTE, Tab
from prob3r.viewer.uploads import LIMIT, Uploads, limit
from prob3r.viewer.visit import set_value

ALONE = "nothing"


class CompareTab(Tab):
    """Comparison with another model or with other probes."""

    def build(self) -> None:
        """Add the controls."""
        self.note("The same scene and the same ablations, in another model or with other probes.")
        choices = (ALONE, *self.session.others)
        self.other = self.gui.add_dropdown("Beside", choices)
        self.numbers = self.gui.add_html("")
        self.visit.on_update(self.other, self._compare)
        self.gui.add_divider()
        self.note("A second opinion: matches found in the photographs alone, without the model.")
        self.gui.add_button("Find matches").on_click(self.visit.guarded(self._check))
        self.checked = self.gui.add_html("")
        self._checked_scene: Experiment | None = None

    def refresh(self) -> None:
        """Update the controls and the numbers of the comparison."""
        set_value(self.other, self.session.against or ALONE)
        self.numbers.content = tables.numbers(self.session)
        if self._checked_scene is not self.session.experiment:
            self.checked.content = ""

    def _check(self, _: Any) -> None:
        experiment, matcher = self.session.experiment, best_matcher()
        if matcher is None:
            raise Prob3rError(
                "No matcher is installed; install one with pip install 'prob3r[matching]'."
            )
        with self.visit.busy("Looking for matches"):
            self.checked.content = tables.sentences(experiment.check(matcher))
        self._checked_scene = experiment

    def _compare(self, _: Any) -> None:
        try:
            self.session.compare(None if self.other.value == ALONE else self.other.value)
        finally:
            self.visit.change(home=True)


class FilesTab(Tab):
    """Upload of photographs, and downloads."""

    def build(self) -> None:
        """Add the controls."""
        gui = self.gui
        limit(gui)
        self.uploads = Uploads(self.visit.folder)
        self.note(f"Photographs of one scene, view 1 first, each of at most {LIMIT // 2**20} MB.")
        add = gui.add_upload_button("Add a photograph", mime_type="image/*")
        add.on_upload(self.visit.guarded(lambda _: self._add(add.value)))
        self.status = gui.add_html("")
        self.look = gui.add_button("Open them", disabled=True)
        self.clear = gui.add_button("Start over", color="gray", disabled=True)
        self.look.on_click(self.visit.guarded(lambda _: self._open()))
        self.clear.on_click(self.visit.guarded(lambda _: self._clear()))
        gui.add_divider()
        self.note("Save the present state, with its ablations.")
        for label, name, make in (
            ("Picture (PNG)", "prob3r.png", lambda: saving.png(self.visit.client)),
            ("Points (PLY)", "prob3r.ply", lambda: saving.ply(self.session)),
            ("Explain page (HTML)", "prob3r.html", lambda: saving.page(self.session)),
            ("Recording (.viser)", "prob3r.viser", lambda: saving.recording(self.session)),
        ):
            gui.add_button(label, color="gray").on_click(
                self.visit.guarded(self._saving(name, make))
            )

    def open(self, source: ViewsSource) -> None:
        """Open another scene."""
        with self.visit.busy("Running the model on the new photographs"):
            self.session.open(source)
        self.visit.change(home=True)

    def _add(self, file: viser.UploadedFile) -> None:
        most = self.session.probed.model.most_views
        if most is not None and len(self.uploads.names) == most:
            raise Prob3rError(f"This model takes at most {most} views; open them, or start over.")
        self.uploads.add(file)
        self._say()

    def _open(self) -> None:
        source = self.uploads.take()
        self._say()
        self.open(source)

    def _clear(self) -> None:
        self.uploads.clear()
        self._say()

    def _say(self) -> None:
        names = self.uploads.names
        words = ", ".join(f"view {view}: {name}" for view, name in enumerate(names, 1))
        self.status.content = f'<div style="{NOTE}">{escape(words)}</div>' if names else ""
        self.look.disabled, self.clear.disabled = len(names) < 2, not names

    def _saving(self, name: str, make: Callable[[], bytes]) -> Callable[[Any], None]:
        def save(_: Any) -> None:
            with self.visit.busy(f"Making {name}"):
                content = make()
            self.visit.client.send_file_download(name, content, save_immediately=True)

        return save
