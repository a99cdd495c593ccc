"""The tabs of the panel: each builds its controls and connects them to the session."""

from abc import ABC, abstractmethod
from html import escape
from typing import Any

from prob3r.errors import Prob3rError
from prob3r.models.protocol import trunk
from prob3r.viewer import colours, pictures, relations, tables
from prob3r.viewer.display import ALL, CAMERAS, COLOURS, GHOSTS, OF_HEAD, THE_TRUTH
from prob3r.viewer.pictures import WRITE, chosen
from prob3r.viewer.visit import Visit, set_value

MEAN = "mean of the heads"
MOST_ATTENDED = "the most attended"
ALL_VIEWS = "all views"
NOTE = "padding:0 10px 6px;font-size:12px;line-height:1.4;opacity:0.7"


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
        """Update the controls from the session."""

    def note(self, text: str) -> None:
        """Add a line of explanation."""
        self.gui.add_html(f'<div style="{NOTE}">{escape(text)}</div>')

    def view_names(self) -> tuple[str, ...]:
        """Return the names of all views, such as `view 1`."""
        return tuple(f"view {v}" for v in range(1, self.session.experiment.views.count + 1))


class DisplayTab(Tab):
    """How the points are shown."""

    def build(self) -> None:
        """Add the controls."""
        gui, display = self.gui, self.session.display
        self.colour = gui.add_dropdown(
            "Colour by", self._known(COLOURS), initial_value=display.colour
        )
        self.legend = gui.add_html("")
        self.chips = gui.add_html("")
        self.views = gui.add_text(
            "Views shown", "all", hint="Click a view above, or type: all, or 1, 3, 4."
        )
        self.decided = gui.add_dropdown(
            "Whose camera", self._decided(), hint="The camera whose effects the colours show."
        )
        self.size = gui.add_slider("Point size", 0.2, 3.0, 0.1, display.size)
        self.hidden = gui.add_slider(
            "Hide, %", 0, 90, 5, display.hidden, hint="Hide the points of lowest confidence."
        )
        self.cameras = gui.add_dropdown(
            "Cameras", self._known(CAMERAS), initial_value=display.cameras
        )
        self.paths = gui.add_checkbox(
            "Camera paths", display.paths, hint="Show the path of every camera along the timeline."
        )
        self.moving = gui.add_dropdown(
            "Timeline", self._moving(), hint="Which views follow the timeline."
        )
        self.ghost = gui.add_dropdown(
            "Ghost",
            self._known(GHOSTS),
            initial_value=display.ghost,
            hint="Grey points for comparison.",
        )
        for name in ("colour", "size", "hidden", "cameras", "paths", "ghost"):
            self._follow(name)
        self.visit.on_update(self.views, self._choose_views)
        self.visit.on_update(self.moving, self._choose_moving)
        self.visit.on_update(self.decided, self._choose_decided)

    def refresh(self) -> None:
        """Offer only the choices that the scene and the model allow, and show the legend."""
        display = self.session.display
        for handle, choices in (
            (self.colour, COLOURS),
            (self.ghost, GHOSTS),
            (self.cameras, CAMERAS),
        ):
            handle.options = self._known(choices)
        self.moving.options = self._moving()
        self.decided.options = self._decided()
        self.decided.visible = display.colour in colours.DECIDES and len(self._decided()) > 1
        set_value(self.decided, self._decided()[display.decided - 2])
        set_value(self.colour, display.colour)
        set_value(self.ghost, display.ghost)
        set_value(self.cameras, display.cameras)
        set_value(self.moving, self._moving()[display.moving])
        shown = "all" if display.views is None else ", ".join(map(str, display.views)) or "none"
        set_value(self.views, shown)
        self.chips.content = tables.chips(self.session, WRITE)
        drawing = self.visit.renderer.drawings[self.session.present]
        self.legend.content = tables.legend(self.session, drawing)

    def _known(self, choices: tuple[str, ...]) -> tuple[str, ...]:
        """Return the choices without those that need a missing truth or a missing camera head."""
        experiment = self.session.experiment
        missing: tuple[str, ...] = () if experiment.has_truth else (colours.ERROR, THE_TRUTH)
        missing += () if experiment.has_camera_head else (OF_HEAD,)
        return tuple(choice for choice in choices if choice not in missing)

    def _moving(self) -> tuple[str, ...]:
        return (ALL_VIEWS, *(f"{name} alone" for name in self.view_names()))

    def _decided(self) -> tuple[str, ...]:
        return tuple(f"camera {v}" for v in range(2, self.session.experiment.views.count + 1))

    def _choose_decided(self, _: Any) -> None:
        self.session.show(decided=2 + self._decided().index(self.decided.value))
        self.visit.redraw()

    def _choose_moving(self, _: Any) -> None:
        self.session.show(moving=self._moving().index(self.moving.value) or ALL)
        self.visit.redraw()

    def _choose_views(self, _: Any) -> None:
        text = self.views.value.strip().lower()
        if text in ("all", "none"):
            views: tuple[int, ...] | None = None if text == "all" else ()
        else:
            parts = [part.strip() for part in text.split(",")]
            if not all(part.isascii() and part.isdigit() and len(part) < 3 for part in parts):
                return  # it is still being typed
            views = tuple(dict.fromkeys(int(part) for part in parts))
        self.session.show(views=views)
        self.visit.redraw()

    def _follow(self, name: str) -> None:
        handle = getattr(self, name)

        def show(_: Any) -> None:
            self.session.show(**{name: handle.value})
            self.visit.redraw()

        self.visit.on_update(handle, show)


class AttentionTab(Tab):
    """What the chosen patches attend to."""

    def build(self) -> None:
        """Add the controls."""
        stack = trunk(self.session.probed.model)
        self.note(
            "Click a patch below, or a point in 3D: the other photographs show what it attends to."
        )
        self.photographs = self.gui.add_html("")
        self.elsewhere = self.gui.add_html("")
        self.tokens = self.gui.add_html("")
        self.heads = self.gui.add_html("")
        self.choice = self.gui.add_text(
            "Chosen",
            "",
            hint="Or type: view 2, row 5, column 3; view 2, camera; block 3, head 1.",
        )
        blocks = tuple(str(i) for i in range(stack.blocks))
        heads = (MEAN, *(f"head {i}" for i in range(stack.heads)))
        self.block = self.gui.add_dropdown("Block", blocks, initial_value=str(self.session.block))
        self.head = self.gui.add_dropdown("Head", heads, initial_value=MEAN)
        self.toward = self.gui.add_dropdown(
            "Heads shown for",
            (MOST_ATTENDED, *self.view_names()),
            hint="The view on which the small pictures show the attention of every head.",
        )
        self.unpin = self.gui.add_button("Remove all pins", color="gray")
        for handle, action in (
            (self.choice, self._choose),
            (self.block, self._watch),
            (self.head, self._watch),
            (self.toward, self._toward),
        ):
            self.visit.on_update(handle, action)
        self.unpin.on_click(self.visit.guarded(self._unpin))
        self.visit.client.scene.on_click()(self.visit.guarded(self._click))

    def refresh(self) -> None:
        """Show the photographs, the pins and the heads."""
        session = self.session
        self.photographs.content = pictures.photographs(session)
        self.elsewhere.content = pictures.elsewhere(session)
        self.tokens.content = pictures.tokens(session)
        self.heads.content = pictures.heads(session)
        self.toward.visible = session.experiment.views.count > 2
        self.toward.options = (MOST_ATTENDED, *self.view_names())
        self.unpin.disabled = not session.pins
        set_value(self.block, str(session.block))
        set_value(self.head, MEAN if session.head is None else f"head {session.head}")

    def _choose(self, _: Any) -> None:
        choice = chosen(self.choice.value)
        if choice is None:
            return
        first, *rest = choice.values
        assert first is not None
        if choice.kind == "head":
            self.session.watch(first, rest[0])
        elif choice.kind == "token":
            if choice.token not in trunk(self.session.probed.model).layout(first).special:
                return  # it is still being typed
            self.session.pin(first, token=choice.token)
        else:
            row, column = rest
            assert row is not None
            assert column is not None
            self._pin(first, row, column)
        self._shown()

    def _pin(self, view: int, row: int, column: int) -> None:
        grids = self.session.experiment.grids
        if 1 <= view <= len(grids):
            rows, columns = grids[view - 1]
            if row >= rows or column >= columns:
                raise Prob3rError(f"View {view} has {rows} rows and {columns} columns, from 0 on.")
            self.session.pin(view, row * columns + column)

    def _toward(self, _: Any) -> None:
        name = self.toward.value
        self.session.show_heads(None if name == MOST_ATTENDED else int(name.split()[1]))
        self.refresh()

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
        self.visit.on_change()


class ViewsTab(Tab):
    """Attention between views, and the view that disagrees with the others."""

    def build(self) -> None:
        """Add the controls."""
        self.shown = False
        self.gui.add_html(pictures.TELLS_WHETHER_SHOWN)
        state = self.gui.add_text("Shown", "")  # the browser hides it, and writes into it
        self.visit.on_update(state, lambda _: self._show(state.value == pictures.SHOWN))
        self.table = self.gui.add_html("")
        self.matrix = self.gui.add_html("")
        self.blocks = self.gui.add_html("")
        self.choice = self.gui.add_text("Block", "", hint="Click a block above, or type: block 3.")
        self.visit.on_update(self.choice, self._choose)

    def refresh(self) -> None:
        """Show the table of the views, and the attention between views.

        This measures the attention of the run, so it is done only while the tab is open.
        """
        if not self.shown:
            return
        several = relations.needs_matrix(self.session)
        self.table.content = relations.table(self.session)
        self.matrix.content = relations.matrix(self.session) if several else ""
        self.blocks.content = relations.blocks(self.session) if several else ""
        self.choice.visible = several

    def _show(self, shown: bool) -> None:
        self.shown = shown
        self.refresh()

    def _choose(self, _: Any) -> None:
        text = self.choice.value
        choice = chosen(text if "," in text else f"{text}, mean")
        if choice is not None and choice.kind == "head":
            block = choice.values[0]
            assert block is not None
            self.session.watch(block, self.session.head)
            self.visit.renderer.draw_pins()
            self.visit.on_change()
