"""The tab of ablations: it offers the parts that the model has, to switch them off."""

from collections.abc import Callable
from html import escape
from typing import Any

from prob3r.errors import Prob3rError
from prob3r.measures.steps import SUBLAYER_WORDS
from prob3r.models.protocol import Stack, trunk
from prob3r.viewer import tables
from prob3r.viewer.ablations import (
    ALL_BLOCKS,
    BETWEEN,
    BLOCK,
    EVERY,
    HEAD,
    MODES,
    TOKEN,
    Ablation,
    kinds_of,
    sublayers_of,
    tokens_of,
)
from prob3r.viewer.tabs import ALL_VIEWS, NOTE, Tab

EVERY_BLOCK = "all blocks"
OTHERS = "all other views"
EVERY_TOKEN = "all special tokens"


class AblationTab(Tab):
    """The tab in which parts of the model are switched off."""

    def build(self) -> None:
        """Add the controls."""
        gui, model = self.gui, self.session.probed.model
        self._own = own = trunk(model)
        # A stack without its own weights or without attention has no part to switch off.
        self.stack = gui.add_dropdown("Stack", tuple(model.stacks), initial_value=own.name)
        self.stack.visible = len(model.stacks) > 1
        self.kind = gui.add_dropdown("What", tuple(kinds_of(own, self._count)))
        self.mode = gui.add_dropdown("Mode", tuple(MODES[HEAD]))
        self.meaning = gui.add_html("")
        self.view = gui.add_dropdown("In", (ALL_VIEWS, *self.view_names()))
        self.seen = gui.add_dropdown("Attending to", (OTHERS, *self.view_names()))
        self.token = gui.add_dropdown("Token", (EVERY_TOKEN,))
        self.block = gui.add_dropdown("Block", (EVERY_BLOCK,))
        self.sublayer = gui.add_dropdown("Sublayer", ("",))
        self.head = gui.add_dropdown("Head", ("0",))
        self.ablate = gui.add_button("Switch off", color="red")
        self.listed = gui.add_html("")
        self.numbers = gui.add_html("")
        self.undo = gui.add_button("Undo the last", color="gray")
        self.restore = gui.add_button("Undo all", color="gray")
        with gui.add_folder("The same in Python", expand_by_default=False):
            self.code = gui.add_html("")
        self.visit.on_update(self.stack, lambda _: self._offer_stack())
        self.visit.on_update(self.kind, lambda _: self._offer_kind())
        self.visit.on_update(self.mode, lambda _: self._explain())
        for button, action in (
            (self.ablate, self._ablate),
            (self.undo, lambda: self.session.undo()),
            (self.restore, lambda: self.session.restore()),
        ):
            button.on_click(self.visit.guarded(self._changing(action)))
        self._offer_views()
        self._offer_stack()
        choose(self.block, str(self.session.block))

    def refresh(self) -> None:
        """Show what is switched off, its effect, and the Python code for it."""
        if len(self.view.options) != self._count + 1:
            self._offer_views()
        self.listed.content = tables.ablations(self.session)
        self.numbers.content = tables.numbers(self.session)
        self.undo.disabled = self.restore.disabled = not self.session.ablations
        self.code.content = tables.code(self.session.python)

    @property
    def _count(self) -> int:
        return self.session.experiment.views.count

    @property
    def _stack(self) -> Stack:
        return self.session.probed.model.stacks[self.stack.value]

    def _offer_views(self) -> None:
        self.view.options = (ALL_VIEWS, *self.view_names())
        self.seen.options = (OTHERS, *self.view_names())
        choose(self.view, "view 2")
        choose(self.seen, "view 1")

    def _offer_stack(self) -> None:
        """Offer the blocks and kinds of ablation of the chosen stack."""
        stack = self._stack
        self.kind.options = tuple(kinds_of(stack, self._count))
        self.block.options = (EVERY_BLOCK, *(str(block) for block in range(stack.blocks)))
        self.head.options = tuple(str(head) for head in range(stack.heads))
        self.token.options = (EVERY_TOKEN, *tokens_of(stack, self._count))
        self._offer_kind()

    def _offer_kind(self) -> None:
        """Offer the options of the chosen kind of ablation."""
        kind = self.kind.value
        if kind not in MODES:
            raise Prob3rError(f"'{kind}' cannot be switched off.")
        self.mode.options = tuple(MODES[kind])
        choose(self.mode, self.mode.options[0])  # otherwise a mode of the same name stays selected
        sublayers = sublayers_of(self._stack, kind)
        self.sublayer.options = tuple(SUBLAYER_WORDS.get(s, s) for s in sublayers) or ("",)
        self.head.visible = kind == HEAD
        self.sublayer.visible = kind != BLOCK and len(sublayers) > 1
        self.seen.visible = kind == BETWEEN
        self.token.visible = kind == TOKEN
        self.view.label = "Of" if kind in (BETWEEN, TOKEN) else "In"
        self._explain()

    def _explain(self) -> None:
        words = MODES.get(self.kind.value, {}).get(self.mode.value, "")
        self.meaning.content = f'<div style="{NOTE}">{escape(words)}</div>'

    def _ablate(self) -> None:
        names = {SUBLAYER_WORDS.get(s, s): s for s in sublayers_of(self._stack)}
        block, token = self.block.value, self.token.value
        self.session.ablate(
            Ablation(
                kind=self.kind.value,
                mode=self.mode.value,
                block=ALL_BLOCKS if block == EVERY_BLOCK else int(block),
                view=number_of(self.view.value),
                sublayer=names.get(self.sublayer.value, "") if self.kind.value != BLOCK else "",
                head=int(self.head.value),
                seen=number_of(self.seen.value),
                token="*" if token == EVERY_TOKEN else token,
                stack=None if self._stack is self._own else self._stack.name,
            )
        )

    def _changing(self, action: Callable[[], None]) -> Callable[[Any], None]:
        def act(_: Any) -> None:
            panes = len(self.session.panes)
            action()
            self.visit.change(home=len(self.session.panes) != panes)

        return act


def choose(dropdown: Any, value: str) -> None:
    """Choose an option of a dropdown if the dropdown has this option."""
    if value in dropdown.options:
        dropdown.value = value


def number_of(name: str) -> int:
    """Return the number of a view by its name, such as `view 2`, or `EVERY` for another name."""
    return int(name.removeprefix("view ")) if name.startswith("view ") else EVERY
