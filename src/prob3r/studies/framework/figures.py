"""The style of figures: the width of a paper's column, colour-blind safe colours, and units."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import Interval
from prob3r.measures.curves import block_ends
from prob3r.models.sites import Site

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.4, 7.0  # inches: the widths of one column and of a page

MOST_NUMBERS = 10
"""Numbers of blocks that stand beside one another in a narrow panel."""

COLOURS = {
    "all": "#1f2933",
    "easy": "#0072b2",
    "hard": "#d55e00",
    "self_attn": "#009e73",
    "cross_attn": "#aa4499",
    "global_attn": "#aa4499",
    "mlp": "#7d8790",
    "global_mlp": "#b8a078",
    "classical": "#e69f00",
    "control": "#9aa5b1",
}
"""What each colour means, in every figure."""

LABELS = {
    "rotation_error": "rotation error (degrees)",
    "translation_error": "translation error (degrees)",
    "scale_error": "scale error, |log s|",
    "shape_error": "shape error",
    "pointmap_error": "pointmap error",
}

_STYLE: Any = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
}


@contextmanager
def figure(
    rows: int = 1, columns: int = 1, width: float = COLUMN, height: float = 2.2
) -> "Iterator[tuple[Figure, list[Axes]]]":
    """Yield a figure and its axes, row by row; no display is needed.

    Args:
        rows: Number of rows of axes.
        columns: Number of columns of axes.
        width: Width of the figure, in inches.
        height: Height of one row, in inches.

    Raises:
        Prob3rError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Prob3rError(
            "Figures need matplotlib; install it with `pip install prob3r[studies]`."
        ) from error
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(width, height * rows))
        yield drawn, list(drawn.subplots(rows, columns, squeeze=False).flat)


def band(
    axes: "Axes",
    x: Sequence[int | float],
    middle: Tensor,
    low: Tensor,
    high: Tensor,
    colour: str,
    label: str = "",
    style: str = "-",
) -> None:
    """Draw a curve with its interval."""
    middle, low, high = (torch.as_tensor(t).cpu() for t in (middle, low, high))
    axes.plot(x, middle, style, color=colour, label=label)
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def grouped_bars(
    axes: "Axes",
    groups: Mapping[str, Mapping[str, Interval]],
    colours: Mapping[str, str],
) -> None:
    """Draw bars with their intervals, in groups.

    Args:
        axes: The axes to draw on.
        groups: The interval of each bar, by the name of its group and its own name.
        colours: Colours of the bars by name, in the order of the bars in a group.
    """
    width = 0.8 / len(colours)
    for place, found in enumerate(groups.values()):
        for step, (name, colour) in enumerate(colours.items()):
            if name in found:
                value, low, high = found[name]
                x = place + width * (step - (len(colours) - 1) / 2)
                label = "" if place else name
                axes.bar(x, value, 0.9 * width, color=colour, label=label)
                around = [[value - low], [high - value]]
                axes.errorbar(x, value, around, color=COLOURS["all"], lw=0.8, capsize=1)
    axes.axhline(0, color=COLOURS["all"], lw=0.6)
    axes.set_xticks(range(len(groups)), list(groups))


def block_axis(axes: "Axes", sites: Sequence[str]) -> None:
    """Label an axis of sites with the blocks, a tick at each block's end."""
    block_ticks(axes, sites)
    axes.set_xlabel("end of decoder block")


def block_ticks(axes: "Axes", sites: Sequence[str]) -> None:
    """Set a tick at the end of each block; of many blocks, every second one has a number."""
    ends = block_ends(sites)
    blocks = [str(Site.parse(sites[i]).block) for i in ends]
    step = 1 if len(blocks) <= MOST_NUMBERS else 2
    axes.set_xticks(ends, ["" if i % step else block for i, block in enumerate(blocks)])
