"""The panel of one visit: the timeline, which is always visible, and the tabs."""

from typing import Any

import viser

from prob3r.viewer import tables
from prob3r.viewer.ablation_tab import AblationTab
from prob3r.viewer.files_tab import CompareTab, FilesTab
from prob3r.viewer.tabs import AttentionTab, DisplayTab, Tab, ViewsTab
from prob3r.viewer.timeline import marks
from prob3r.viewer.visit import Visit, set_value

WIDTH = 420
BLUE = (31, 111, 181)
TABS: dict[str, type[Tab]] = {
    "Display": DisplayTab,
    "Attention": AttentionTab,
    "Views": ViewsTab,
    "Ablate": AblationTab,
    "Compare": CompareTab,
    "Files": FilesTab,
}


class Panel:
    """All controls of one visit.

    Args:
        visit: The browser that they are for.
    """

    def __init__(self, visit: Visit):
        self.visit, self.session = visit, visit.session
        gui = visit.client.gui
        gui.configure_theme(show_logo=False, show_share_button=False, brand_color=BLUE)
        gui.set_panel_label("prob3r")
        gui.main_panel.dock_right()
        gui.main_panel.set_width(WIDTH)
        self._timeline(gui)
        group = gui.add_tab_group()
        self.tabs: list[Tab] = []
        for label, build in TABS.items():
            with group.add_tab(label):
                self.tabs.append(build(visit))
        visit.on_change, visit.on_move = self.refresh, self.refresh_place
        self.refresh()

    def refresh(self) -> None:
        """Update the timeline and all tabs."""
        self.heading.content = tables.heading(self.session)
        self.refresh_place()
        for tab in self.tabs:
            tab.refresh()

    def refresh_place(self) -> None:
        """Update what depends on the position on the timeline."""
        self.where.content = tables.where(self.session)
        self.play.label = "Pause" if self.visit.playing else "Play"
        if self.visit.playing or not self.session.timeline.moving:
            set_value(self.slider, self.session.timeline.target)

    def _timeline(self, gui: viser.GuiApi) -> None:
        self.heading = gui.add_html("")
        steps = self.session.experiment.steps
        end = self.session.timeline.target
        self.slider = gui.add_slider(
            "Site",
            0,
            max(len(steps) - 1, 1),
            1,
            end,
            visible=len(steps) > 1,
            marks=tuple(marks(steps)),
            hint="The site in the model: in is the input, numbers are blocks, out is the output.",
        )
        self.where = gui.add_html("")
        self.play = gui.add_button("Play", hint="Play all sites in a loop.")

        def move(_: Any) -> None:
            self.visit.playing = False
            self.session.move(self.slider.value)
            self.visit.animate()

        def play(_: Any) -> None:
            self.visit.playing = not self.visit.playing
            self.refresh_place()
            self.visit.animate()

        self.visit.on_update(self.slider, move)
        self.play.on_click(self.visit.guarded(play))
