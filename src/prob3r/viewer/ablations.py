"""Ablations: what a person can switch off, in words, as edits, and as Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prob3r.errors import Prob3rError
from prob3r.measures.steps import SUBLAYER_WORDS
from prob3r.measures.tokens import SINK, is_sink
from prob3r.models import Model
from prob3r.runs.edits import Attention, Edit, HeadAblation, Knockout, Setting, Skip, head_means
from prob3r.runs.trace import trace
from prob3r.scenes import Pair

HEAD, SINKS, SUBLAYER, BLOCK = "one head", "attention sinks", "a sublayer", "a whole block"
MODES: Mapping[str, Mapping[str, str]] = {
    HEAD: {
        "zero": "its output becomes 0",
        "mean": "its output becomes its mean over this pair's patches",
        "uniform": "it looks at all patches alike",
    },
    SINKS: {
        "mask": "nothing looks there, the rest sums to one again",
        "zero": "nothing looks there, the rest stays as it is",
    },
    SUBLAYER: {"skip": "it adds nothing"},
    BLOCK: {"skip": "its sublayers add nothing"},
}
"""What can be switched off, the ways to do it, and what each of them means."""

SUBLAYERS = ("cross_attn", "self_attn", "mlp")
BOTH = 0
"""The view of a ablation that concerns both."""


@dataclass(frozen=True)
class Ablation:
    """One thing that is switched off.

    Attributes:
        kind: A key of `MODES`.
        mode: A key of that kind's modes.
        block: Number of the decoder block.
        view: 1 or 2, or `BOTH`.
        sublayer: One of `SUBLAYERS`; of a block it means nothing.
        head: Number of the head; of anything but a head it means nothing.
    """

    kind: str
    mode: str
    block: int
    view: int = 2
    sublayer: str = "cross_attn"
    head: int = 0

    def __post_init__(self) -> None:
        attends = self.kind in (HEAD, SINKS)
        if self.kind not in MODES or self.mode not in MODES[self.kind]:
            raise Prob3rError(f"'{self.kind}' cannot be switched off by '{self.mode}'.")
        if self.sublayer not in SUBLAYERS or (attends and self.sublayer == "mlp"):
            raise Prob3rError(
                "An MLP has no heads and no attention: choose cross-attention or self-attention."
            )

    @property
    def words(self) -> str:
        """What is switched off, such as `head 2 of block 3's cross-attention, view 2 (zero)`."""
        where = f"block {self.block}'s {SUBLAYER_WORDS[self.sublayer]}"
        what = {
            HEAD: f"head {self.head} of {where}",
            SINKS: f"sinks of {where}",
            SUBLAYER: where,
            BLOCK: f"block {self.block}",
        }[self.kind]
        views = "both views" if self.view == BOTH else f"view {self.view}"
        return f"{what}, {views} ({self.mode})"

    @property
    def sites(self) -> list[str]:
        """The sublayers that it concerns, one for each view, or a pattern of a whole block."""
        last = "*" if self.kind == BLOCK else self.sublayer
        views = (1, 2) if self.view == BOTH else (self.view,)
        return [f"dec{view}.{self.block}.{last}" for view in views]

    def edits(self, model: Model, pair: Pair) -> list[Edit]:
        """Return the edits that make it.

        Raises:
            Prob3rError: There are no sinks.
        """
        return [self._edit(site, model, pair) for site in self.sites]

    def python(self) -> list[str]:
        """Return the same edits as Python, where `model` and `pair` stand for what they say."""
        return [self._python(site) for site in self.sites]

    def _edit(self, site: str, model: Model, pair: Pair) -> Edit:
        if self.kind in (SUBLAYER, BLOCK):
            return Skip(site)
        if self.kind == SINKS:
            name = f"{site}.mass"
            mass = trace(model, pair, name, output=False)[name]
            sinks = is_sink(mass)
            if not sinks.any():
                raise Prob3rError(
                    f"{site} has no sinks: no patch gets more than {SINK:g} times its share "
                    "of any head's attention."
                )
            return Knockout(site, mode="mask" if self.mode == "mask" else "zero", keys=sinks)
        if self.mode == "uniform":
            keys = len(Setting.of(model, pair).keys(site))
            return Attention.uniform(site, keys, heads=[self.head])
        if self.mode == "mean":
            means = head_means(model, [pair])
            return HeadAblation(site, mode="mean", heads=[self.head], source=means)
        return HeadAblation(site, mode="zero", heads=[self.head])

    def _python(self, site: str) -> str:
        if self.kind in (SUBLAYER, BLOCK):
            return f'Skip("{site}")'
        if self.kind == SINKS:
            return f'Knockout("{site}", mode="{self.mode}", keys=sinks("{site}"))'
        if self.mode == "uniform":
            keys = f'len(Setting.of(model, pair).keys("{site}"))'
            return f'Attention.uniform("{site}", {keys}, heads=[{self.head}])'
        source = ", source=head_means(model, [pair])" if self.mode == "mean" else ""
        return f'HeadAblation("{site}", mode="{self.mode}", heads=[{self.head}]{source})'


_NAMES = ("Attention", "HeadAblation", "Knockout", "Setting", "Skip", "head_means")

_SINKS = f'''

def sinks(site):
    """The keys that get more than {SINK:g} times their share, head by head."""
    mass = prob3r.trace(model, pair, f"{{site}}.mass", output=False)[f"{{site}}.mass"]
    return mass * mass.shape[-1] > {SINK:g}

'''


def python(ablations: Sequence[Ablation], model: str, pair: str) -> str:
    """Return a program that does what the viewer does with these ablations.

    Args:
        ablations: What is switched off.
        model: The model's name.
        pair: The statements that read it, where `model` stands for the model.
    """
    edits = [line for ablation in ablations for line in ablation.python()]
    used = [name for name in _NAMES if any(name in line for line in edits)]
    return "\n".join(
        [
            "import prob3r",
            *([f"from prob3r.runs.edits import {', '.join(used)}"] if used else []),
            "",
            f"model = prob3r.load({model!r})",
            *pair.splitlines(),
            *(_SINKS.splitlines() if any(ablation.kind == SINKS for ablation in ablations) else []),
            "edits = [",
            *(f"    {line}," for line in edits),
            "]",
            'run = prob3r.trace(model, pair, ["dec1.*", "dec2.*"], edits)',
            "points1, points2 = run.output.points",
            "",
        ]
    )
