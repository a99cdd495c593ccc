"""The tabs of the panel: each builds its controls, and says what they ask of the session."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from html import escape
from typing import Any

from prob3r.errors import Prob3rError
from prob3r.models.protocol import trunk
from prob3r.reliability.matchers import best_matcher
from prob3r.viewer import colours, pictures, saving, tables
from prob3r.viewer.ablations import BLOCK, BOTH, HEAD, MODES, SINKS, SUBLAYERS, Ablation
from prob3r.viewer.experiment import Experiment
from prob3r.viewer.pictures import chosen
from prob3r.viewer.session import COLOURS, GHOSTS, MOVING, THE_TRUTH
from prob3r.viewer.sources import Source
from prob3r.viewer.uploads import LIMIT, Uploads, limit
from prob3r.viewer.visit import Visit, set_value

ALONE = "nothing"
MEAN = "mean of the heads"
SUBLAYER_CHOICES = {"cross-attention": "cross_attn", "self-attention": "self_attn", "MLP": "mlp"}
VIEW_CHOICES = {"view 2": 2, "view 1": 1, "both views": BOTH}
_NOTE = "padding:0 10px 6px;font-size:12px;line-height:1.4;opacity:0.7"


class Tab(ABC):
    """One tab of a visit's panel.

    Args:
        visit: The browser that it is for.
    """

    def __init__(self, visit: Visit):
        self.visit, self.session, self.gui = visit, visit.session, visit.client.gui
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Add the controls."""

    def refresh(self) -> None:  # noqa: B027 - a tab may show nothing that changes
        """Bring the controls up to date with the session."""

    def note(self, text: str) -> None:
        """Add a line of explanation."""
        self.gui.add_html(f'<div style="{_NOTE}">{escape(text)}</div>')


class DisplayTab(Tab):
    """How the points are shown."""

    def build(self) -> None:
        """Add the controls."""
        gui, display = self.gui, self.session.display
        self.colour = gui.add_dropdown(
            "Colour by", self._known(COLOURS), initial_value=display.colour
        )
        self.legend = gui.add_html("")
        self.size = gui.add_slider("Point size", 0.2, 3.0, 0.1, display.size)
        self.hidden = gui.add_slider(
            "Hide, %", 0, 90, 5, display.hidden, hint="Points that the model is least sure of."
        )
        self.view1 = gui.add_checkbox("View 1", display.view1)
        self.view2 = gui.add_checkbox("View 2", display.view2)
        self.cameras = gui.add_checkbox("Cameras", display.cameras)
        self.moving = gui.add_dropdown(
            "Timeline",
            MOVING,
            initial_value=display.moving,
            hint="Which views follow the timeline.",
        )
        self.ghost = gui.add_dropdown(
            "Ghost",
            self._known(GHOSTS),
            initial_value=display.ghost,
            hint="In grey beside the points.",
        )
        for name in ("colour", "size", "hidden", "view1", "view2", "cameras", "moving", "ghost"):
            self._follow(name)

    def refresh(self) -> None:
        """Offer what there is truth for, and say what colours mean."""
        self.colour.options, self.ghost.options = self._known(COLOURS), self._known(GHOSTS)
        set_value(self.colour, self.session.display.colour)
        set_value(self.ghost, self.session.display.ghost)
        drawing = self.visit.renderer.drawings[self.session.present]
        self.legend.content = tables.legend(self.session, drawing)

    def _known(self, choices: tuple[str, ...]) -> tuple[str, ...]:
        if self.session.experiment.has_truth:
            return choices
        return tuple(choice for choice in choices if choice not in (colours.ERROR, THE_TRUTH))

    def _follow(self, name: str) -> None:
        handle = getattr(self, name)

        def show(_: Any) -> None:
            self.session.show(**{name: handle.value})
            self.visit.redraw()

        handle.on_update(self.visit.guarded(show))


class AttentionTab(Tab):
    """Where chosen patches display."""

    def build(self) -> None:
        """Add the controls."""
        stack = trunk(self.session.probed.model)
        self.note(
            "Click a patch below, or a point in 3D: the other photograph shows where it looks."
        )
        self.photographs = self.gui.add_html("")
        self.heads = self.gui.add_html("")
        self.choice = self.gui.add_text(
            "Chosen", "", hint="Or type: view 2, row 5, column 3; block 3, head 1; block 3, mean."
        )
        blocks = tuple(str(i) for i in range(stack.blocks))
        heads = (MEAN, *(f"head {i}" for i in range(stack.heads)))
        self.block = self.gui.add_dropdown("Block", blocks, initial_value=str(self.session.block))
        self.head = self.gui.add_dropdown("Head", heads, initial_value=MEAN)
        self.unpin = self.gui.add_button("Let go of all patches", color="gray")
        for handle, action in (
            (self.choice, self._choose),
            (self.block, self._watch),
            (self.head, self._watch),
        ):
            handle.on_update(self.visit.guarded(action))
        self.unpin.on_click(self.visit.guarded(self._unpin))
        self.visit.client.scene.on_click()(self.visit.guarded(self._click))

    def refresh(self) -> None:
        """Show the photographs, the pins and the heads."""
        session = self.session
        self.photographs.content = pictures.photographs(session)
        self.heads.content = pictures.heads(session)
        self.unpin.disabled = not session.pins
        set_value(self.block, str(session.block))
        set_value(self.head, MEAN if session.head is None else f"head {session.head}")

    def _choose(self, _: Any) -> None:
        choice = chosen(self.choice.value)
        if choice is None:
            return
        first, second, *rest = choice.values
        assert first is not None
        if choice.kind == "head":
            self.session.watch(first, second)
        else:
            (column,) = rest
            assert second is not None
            assert column is not None
            self._pin(first, second, column)
        self._shown()

    def _pin(self, view: int, row: int, column: int) -> None:
        if view in (1, 2):
            rows, columns = self.session.experiment.grids[view - 1]
            if row >= rows or column >= columns:
                raise Prob3rError(f"View {view} has {rows} rows and {columns} columns, from 0 on.")
            self.session.pin(view, row * columns + column)

    def _watch(self, _: Any) -> None:
        head = self.head.value
        number = None if head == MEAN else int(head.removeprefix("head "))
        self.session.watch(int(self.block.value), number)
        self._shown()

    def _unpin(self, _: Any) -> None:
        self.session.unpin()
        set_value(self.choice, "")
        self._shown()

    def _click(self, event: Any) -> None:
        pin = self.visit.renderer.pick(event.ray_origin, event.ray_direction)
        if pin is not None:
            self.session.pin(pin.view, pin.patch)
            columns = self.session.experiment.grids[pin.view - 1][1]
            set_value(self.choice, pin.words(columns))
            self._shown()

    def _shown(self) -> None:
        self.visit.renderer.draw_pins()
        self.refresh()


class AblationTab(Tab):
    """Parts to switch off."""

    def build(self) -> None:
        """Add the controls."""
        gui, stack = self.gui, trunk(self.session.probed.model)
        blocks = tuple(str(i) for i in range(stack.blocks))
        heads = tuple(str(i) for i in range(stack.heads))
        self.kind = gui.add_dropdown("Switch off", tuple(MODES))
        self.mode = gui.add_dropdown("Mode", tuple(MODES[HEAD]))
        self.meaning = gui.add_html("")
        self.view = gui.add_dropdown("In", tuple(VIEW_CHOICES))
        self.block = gui.add_dropdown("Block", blocks, initial_value=str(self.session.block))
        self.sublayer = gui.add_dropdown("Sublayer", tuple(SUBLAYER_CHOICES))
        self.head = gui.add_dropdown("Head", heads)
        self.ablation = gui.add_button("Switch off", color="red")
        self.ablations = gui.add_html("")
        self.numbers = gui.add_html("")
        self.undo = gui.add_button("Undo the last", color="gray")
        self.restore = gui.add_button("Undo all", color="gray")
        with gui.add_folder("The same in Python", expand_by_default=False):
            self.code = gui.add_html("")
        self.kind.on_update(self.visit.guarded(self._choose_kind))
        self.mode.on_update(self.visit.guarded(lambda _: self._explain()))
        for button, action in (
            (self.ablation, self._ablate),
            (self.undo, lambda: self.session.undo()),
            (self.restore, lambda: self.session.restore()),
        ):
            button.on_click(self.visit.guarded(self._changing(action)))
        self._explain()

    def refresh(self) -> None:
        """Show what is switched off, what it did, and the Python for it."""
        self.ablations.content = tables.ablations(self.session)
        self.numbers.content = tables.numbers(self.session)
        self.undo.disabled = self.restore.disabled = not self.session.ablations
        self.code.content = tables.code(self.session.python)

    def _choose_kind(self, _: Any) -> None:
        kind = self.kind.value
        if kind not in MODES:
            raise Prob3rError(f"'{kind}' cannot be switched off.")
        self.mode.options = tuple(MODES[kind])
        self.head.visible = kind == HEAD
        self.sublayer.visible = kind != BLOCK
        attends = kind in (HEAD, SINKS)
        choices = tuple(SUBLAYER_CHOICES)
        self.sublayer.options = choices[:2] if attends else choices
        self._explain()

    def _explain(self) -> None:
        words = MODES.get(self.kind.value, {}).get(self.mode.value, "")
        self.meaning.content = f'<div style="{_NOTE}">{escape(words)}</div>'

    def _ablate(self) -> None:
        self.session.ablate(
            Ablation(
                kind=self.kind.value,
                mode=self.mode.value,
                block=int(self.block.value),
                view=VIEW_CHOICES[self.view.value],
                sublayer=SUBLAYER_CHOICES.get(self.sublayer.value, SUBLAYERS[0]),
                head=int(self.head.value),
            )
        )

    def _changing(self, action: Callable[[], None]) -> Callable[[Any], None]:
        def act(_: Any) -> None:
            panes = len(self.session.panes)
            action()
            self.visit.change(home=len(self.session.panes) != panes)

        return act


class CompareTab(Tab):
    """Another model or other probes beside this one."""

    def build(self) -> None:
        """Add the controls."""
        self.note("The same pair, and the same ablations, in another model or by other probes.")
        choices = (ALONE, *self.session.others)
        self.other = self.gui.add_dropdown("Beside", choices)
        self.numbers = self.gui.add_html("")
        self.other.on_update(self.visit.guarded(self._compare))
        self.gui.add_divider()
        self.note("A second opinion: matches found in the photographs alone, without the model.")
        self.gui.add_button("Find matches").on_click(self.visit.guarded(self._check))
        self.checked = self.gui.add_html("")
        self._checked_pair: Experiment | None = None

    def refresh(self) -> None:
        """Show what is compared."""
        set_value(self.other, self.session.against or ALONE)
        self.numbers.content = tables.numbers(self.session)
        if self._checked_pair is not self.session.experiment:
            self.checked.content = ""

    def _check(self, _: Any) -> None:
        experiment, matcher = self.session.experiment, best_matcher()
        if matcher is None:
            raise Prob3rError(
                "No matcher is installed; install one with pip install 'prob3r[matching]'."
            )
        with self.visit.busy("Looking for matches"):
            self.checked.content = tables.sentences(experiment.check(matcher))
        self._checked_pair = experiment

    def _compare(self, _: Any) -> None:
        try:
            self.session.compare(None if self.other.value == ALONE else self.other.value)
        finally:
            self.visit.change(home=True)


class FilesTab(Tab):
    """Photographs in, and what can be saved."""

    def build(self) -> None:
        """Add the controls."""
        gui = self.gui
        limit(gui)
        self.uploads = Uploads(self.visit.folder)
        self.note(f"Two photographs of one scene, each of at most {LIMIT // 2**20} MB.")
        for view in (1, 2):
            self._upload(view)
        self.status = gui.add_html("")
        gui.add_divider()
        self.note("Save what is shown, ablations and all.")
        for label, name, make in (
            ("Picture (PNG)", "prob3r.png", lambda: saving.png(self.visit.client)),
            ("Points (PLY)", "prob3r.ply", lambda: saving.ply(self.session)),
            ("Explain page (HTML)", "prob3r.html", lambda: saving.page(self.session)),
            ("Recording (.viser)", "prob3r.viser", lambda: saving.recording(self.session)),
        ):
            gui.add_button(label, color="gray").on_click(
                self.visit.guarded(self._saving(name, make))
            )

    def open(self, source: Source) -> None:
        """Look at another pair."""
        with self.visit.busy("Looking at the new photographs"):
            self.session.open(source)
        self.visit.change(home=True)

    def _upload(self, view: int) -> None:
        button = self.gui.add_upload_button(f"Choose view {view}", mime_type="image/*")

        def add(_: Any) -> None:
            both = self.uploads.add(view, button.value)
            names = ", ".join(f"view {v}: {n}" for v, n in sorted(self.uploads.names.items()))
            missing = {1, 2} - self.uploads.names.keys()
            wanted = "" if both else f"; now choose view {min(missing)}"
            self.status.content = f'<div style="{_NOTE}">{escape(names + wanted)}</div>'
            if both:
                self.uploads.clear()
                self.open(both)

        button.on_upload(self.visit.guarded(add))

    def _saving(self, name: str, make: Callable[[], bytes]) -> Callable[[Any], None]:
        def save(_: Any) -> None:
            with self.visit.busy(f"Making {name}"):
                content = make()
            self.visit.client.send_file_download(name, content, save_immediately=True)

        return save
