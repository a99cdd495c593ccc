"""Ablations: the parts that can be switched off, in words, as edits, and as Python code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prob3r.errors import Prob3rError
from prob3r.measures.steps import SUBLAYER_WORDS
from prob3r.measures.tokens import SINK, is_sink
from prob3r.models import Model
from prob3r.models.protocol import Stack, trunk
from prob3r.models.sites import ATTENTION, BETWEEN_VIEWS
from prob3r.runs.edits import (
    Attention,
    Edit,
    HeadAblation,
    Knockout,
    Setting,
    Skip,
    head_means,
    token,
    view,
)
from prob3r.runs.trace import trace
from prob3r.scenes import Views

HEAD, SINKS, SUBLAYER, BLOCK = "one head", "attention sinks", "a sublayer", "a whole block"
BETWEEN, TOKEN = "attention between two views", "attention to a special token"
MODES: Mapping[str, Mapping[str, str]] = {
    HEAD: {
        "zero": "its output becomes 0",
        "mean": "its output becomes its mean over the tokens of this scene",
        "uniform": "it attends to all tokens equally",
    },
    BETWEEN: {
        "mask": "nothing passes, and the rest of the attention is renormalized to sum to 1",
        "zero": "nothing passes, and the rest of the attention stays unchanged",
    },
    TOKEN: {
        "mask": "nothing attends to it, and the rest is renormalized to sum to 1",
        "zero": "nothing attends to it, and the rest stays unchanged",
    },
    SINKS: {
        "mask": "nothing attends to them, and the rest is renormalized to sum to 1",
        "zero": "nothing attends to them, and the rest stays unchanged",
    },
    SUBLAYER: {"skip": "it adds nothing"},
    BLOCK: {"skip": "its sublayers add nothing"},
}
"""The kinds of parts that can be switched off, the modes of each, and the meaning of each mode."""

EVERY = 0
"""Number that stands for all views, as the view that attends or the view attended to."""
ALL_BLOCKS = -1
ATTENDING = (HEAD, SINKS, BETWEEN, TOKEN)
"""The kinds that concern attention."""


@dataclass(frozen=True)
class Ablation:
    """One part that is switched off.

    Attributes:
        kind: A key of `MODES`.
        mode: A key of that kind's modes.
        block: Number of the block, or `ALL_BLOCKS`.
        view: Number of the view, or `EVERY`. For attention, it is the view that attends.
        sublayer: Name of the sublayer; not used for a block.
        head: Number of the head; used only for a head.
        seen: The view attended to, or `EVERY`; used only for attention between two views.
        token: Name of the special token, or a pattern such as `register*`; used only for a token.
        stack: Name of the stack; None is the trunk.

    Raises:
        Prob3rError: The kind has no such mode, the sublayer has no attention, or the two views are
            the same.
    """

    kind: str
    mode: str
    block: int
    view: int = 2
    sublayer: str = "cross_attn"
    head: int = 0
    seen: int = 1
    token: str = "camera"
    stack: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in MODES or self.mode not in MODES[self.kind]:
            raise Prob3rError(f"'{self.kind}' cannot be switched off by '{self.mode}'.")
        if self.kind in ATTENDING and self.sublayer not in ATTENTION:
            raise Prob3rError(
                f"{SUBLAYER_WORDS.get(self.sublayer, self.sublayer)} has no heads and no "
                "attention: choose a sublayer of attention."
            )
        if self.kind == BETWEEN and self.view == self.seen and self.view != EVERY:
            raise Prob3rError("Attention between two views needs two views that differ.")

    @property
    def words(self) -> str:
        """What is switched off, such as `head 2 of block 3's cross-attention, view 2 (zero)`."""
        within = "" if self.stack is None else f"{self.stack} "
        block = f"{within}block {self.block}"
        where = f"{block}'s {SUBLAYER_WORDS.get(self.sublayer, self.sublayer)}"
        if self.block == ALL_BLOCKS:
            block = f"all {within}blocks"
            where = f"{SUBLAYER_WORDS.get(self.sublayer, self.sublayer)} of {block}"
        views = "all views" if self.view == EVERY else f"view {self.view}"
        seen = "all other views" if self.seen == EVERY else f"view {self.seen}"
        what = {
            HEAD: f"head {self.head} of {where}, {views}",
            SINKS: f"sinks of {where}, {views}",
            SUBLAYER: f"{where}, {views}",
            BLOCK: f"{block}, {views}",
            BETWEEN: f"attention of {views} to {seen} in {where}",
            TOKEN: f"attention of {views} to {self.token} in {where}",
        }[self.kind]
        return f"{what} ({self.mode})"

    def sites(self, model: Model, views: int) -> list[tuple[int, str]]:
        """Return view numbers and sites that the ablation changes; a site may be a pattern.

        Raises:
            Prob3rError: The model has no such stack.
        """
        if self.stack is not None and self.stack not in model.stacks:
            raise Prob3rError(
                f"This model has no stack '{self.stack}'; it has {', '.join(model.stacks)}."
            )
        stack = trunk(model) if self.stack is None else model.stacks[self.stack]
        last = "*" if self.kind == BLOCK else self.sublayer
        blocks = [str(self.block)]
        if self.block == ALL_BLOCKS:
            one_by_one = self.kind == SINKS or self.mode == "uniform"
            blocks = [str(block) for block in range(stack.blocks)] if one_by_one else ["*"]
        chosen = stack.streams(views) if self.view == EVERY else [self.view]
        return [
            (number, f"{stack.name}{number}.{block}.{last}")
            for number in chosen
            for block in blocks
        ]

    def edits(self, model: Model, views: Views) -> list[Edit]:
        """Return the edits that carry out the ablation.

        Raises:
            Prob3rError: There are no sinks, or the model has no such stack.
        """
        places = self.sites(model, views.count)
        if self.kind == SINKS:
            return self._without_sinks([site for _, site in places], model, views)
        return [self._edit(number, site, model, views) for number, site in places]

    def python(self, model: Model, views: int) -> list[str]:
        """Return the same edits as Python expressions, which use the variables `model`, `views`."""
        return [self._python(number, site) for number, site in self.sites(model, views)]

    def _without_sinks(self, sites: Sequence[str], model: Model, views: Views) -> list[Edit]:
        names = [f"{site}.mass" for site in sites]
        run = trace(model, views, names, output=False)
        found = {site: is_sink(run[name]) for site, name in zip(sites, names, strict=True)}
        if not any(sinks.any() for sinks in found.values()):
            raise Prob3rError(
                f"{', '.join(sites)} has no sinks: no token gets more than {SINK:g} times its "
                "share of any head's attention."
            )
        return [
            Knockout(site, mode=self.mode, keys=sinks)
            for site, sinks in found.items()
            if sinks.any()
        ]

    def _edit(self, number: int, site: str, model: Model, views: Views) -> Edit:
        if self.kind in (SUBLAYER, BLOCK):
            return Skip(site)
        if self.kind == TOKEN:
            return Knockout(site, mode=self.mode, keys=token(self.token))
        if self.kind == BETWEEN:
            keys = ~view(number) if self.seen == EVERY else view(self.seen)
            return Knockout(site, mode=self.mode, queries=view(number), keys=keys)
        if self.mode == "uniform":
            count = len(Setting.of(model, views).keys(site))
            return Attention.uniform(site, count, heads=[self.head])
        if self.mode == "mean":
            means = head_means(model, [views])
            return HeadAblation(site, mode="mean", heads=[self.head], source=means)
        return HeadAblation(site, mode="zero", heads=[self.head])

    def _python(self, number: int, site: str) -> str:
        if self.kind in (SUBLAYER, BLOCK):
            return f'Skip("{site}")'
        if self.kind == SINKS:
            return f'Knockout("{site}", mode="{self.mode}", keys=sinks("{site}"))'
        if self.kind == TOKEN:
            return f'Knockout("{site}", mode="{self.mode}", keys=token("{self.token}"))'
        if self.kind == BETWEEN:
            own = f"view({number})"
            keys = f"~{own}" if self.seen == EVERY else f"view({self.seen})"
            return f'Knockout("{site}", mode="{self.mode}", queries={own}, keys={keys})'
        if self.mode == "uniform":
            keys = f'len(Setting.of(model, views).keys("{site}"))'
            return f'Attention.uniform("{site}", {keys}, heads=[{self.head}])'
        source = ", source=head_means(model, [views])" if self.mode == "mean" else ""
        return f'HeadAblation("{site}", mode="{self.mode}", heads=[{self.head}]{source})'


_NAMES = ("Attention", "HeadAblation", "Knockout", "Setting", "Skip", "head_means", "token", "view")

_SINKS = f'''

def sinks(site):
    """The keys that get more than {SINK:g} times their share, head by head."""
    name = f"{{site}}.mass"
    mass = prob3r.trace(model, views, name, output=False)[name]
    return mass * mass.shape[-1] > {SINK:g}

'''


def kinds_of(stack: Stack, views: int) -> list[str]:
    """Return the kinds of ablation that a stack allows."""
    every = sublayers_of(stack)
    attends = any(sublayer in ATTENTION for sublayer in every)
    between = views > 1 and any(sublayer in BETWEEN_VIEWS for sublayer in every)
    has = {
        HEAD: attends,
        BETWEEN: between,
        TOKEN: attends and bool(tokens_of(stack, views)),
        SINKS: attends and stack.patches,
        SUBLAYER: True,
        BLOCK: True,
    }
    return [kind for kind in MODES if has[kind]]


def sublayers_of(stack: Stack, kind: str = SUBLAYER) -> list[str]:
    """Return the sublayers of a stack to which a kind of ablation applies, attention first."""
    every = dict.fromkeys(s for sublayers in stack.sublayers for s in sublayers)
    fitting = {HEAD: ATTENTION, SINKS: ATTENTION, TOKEN: ATTENTION, BETWEEN: BETWEEN_VIEWS}
    ordered = sorted(every, key=lambda s: (s not in BETWEEN_VIEWS, s not in ATTENTION))
    return [s for s in ordered if kind not in fitting or s in fitting[kind]]


def tokens_of(stack: Stack, views: int) -> list[str]:
    """Return the names of a stack's special tokens."""
    layouts = (stack.layout(number) for number in range(1, views + 1))
    return list(dict.fromkeys(name for layout in layouts for name in layout.special))


def python(
    ablations: Sequence[Ablation], model: Model, views: int, called: str, source: str
) -> str:
    """Return a Python program that does the same as the viewer with these ablations.

    Args:
        ablations: The parts that are switched off.
        model: The model.
        views: Number of views.
        called: The model's name.
        source: Statements that read the views; they use the variable `model`.
    """
    edits = [line for ablation in ablations for line in ablation.python(model, views)]
    used = [
        used for used in _NAMES if any(f"{used}(" in line or f"{used}." in line for line in edits)
    ]
    sinks = any(ablation.kind == SINKS for ablation in ablations)
    return "\n".join(
        [
            "import prob3r",
            *([f"from prob3r.runs.edits import {', '.join(used)}"] if used else []),
            "",
            f"model = prob3r.load({called!r})",
            *source.splitlines(),
            *(_SINKS.splitlines() if sinks else []),
            "edits = [",
            *(f"    {line}," for line in edits),
            "]",
            "run = prob3r.trace(model, views, edits=edits)",
            "points = run.output.points",
            "",
        ]
    )
