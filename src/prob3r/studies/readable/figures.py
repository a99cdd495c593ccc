"""The figures of what can be read where."""

from textwrap import wrap
from typing import TYPE_CHECKING

import pandas as pd

from prob3r.measures.controls import SHUFFLED
from prob3r.measures.statistics import medians, wide
from prob3r.probes.targets import TARGETS
from prob3r.studies.framework.figures import COLOURS, PAGE, band, block_axis, block_ticks, figure
from prob3r.studies.framework.tested import MODEL
from prob3r.studies.readable.rows import CAMERA_TOKEN, ENCODER, MEAN, RANDOM, SAME_PLACE, skill

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

_CURVES = {
    MODEL: ("the model", COLOURS["easy"], "-"),
    SHUFFLED: ("view 1 shuffled", COLOURS["hard"], "-"),
    RANDOM: ("random weights", COLOURS["control"], "-"),
    CAMERA_TOKEN: ("camera token", COLOURS["classical"], "-"),
}
_LINES = {
    ENCODER: ("encoder's output", COLOURS["self_attn"], "--"),
    MEAN: ("mean of training rooms", COLOURS["all"], ":"),
    SAME_PLACE: ("same place", COLOURS["cross_attn"], "-."),
}


def draw_curves(table: pd.DataFrame) -> "Figure":
    """Return a panel for each target: its error over the sites, with the controls."""
    names = list(dict.fromkeys(table.target))
    with figure(-(-len(names) // 4), min(4, len(names)), PAGE, 2.0) as (drawn, axes):
        handles: dict[str, Artist] = {}
        for axis, name in zip(axes, names, strict=False):
            metric = TARGETS[name].measures[0]
            rows = table[(table.target == name) & (table.metric == metric)]
            for source, (label, colour, style) in _CURVES.items():
                own = rows[rows.source == source]
                if len(own) and not own.value.isna().all():
                    sites, values = wide(own, "site")
                    band(axis, range(len(sites)), *medians(values), colour, label, style)
            block_axis(axis, list(dict.fromkeys(rows[rows.source == MODEL].site)))
            for source, (label, colour, style) in _LINES.items():
                own = rows[rows.source == source]
                if len(own):
                    axis.axhline(own.value.median(), color=colour, ls=style, lw=0.9, label=label)
            axis.set_ylim(bottom=0)
            axis.set_title(TARGETS[name].title)
            axis.set_ylabel("\n".join(wrap(metric, 22)))
            drawn_here, labels = axis.get_legend_handles_labels()
            handles |= dict(zip(labels, drawn_here, strict=True))
        for axis in axes[len(names) :]:
            axis.axis("off")
        drawn.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3)
    return drawn


def draw_overview(table: pd.DataFrame) -> "Figure":
    """Return the share of the mean's error that is gone, with targets in rows, sites in columns."""
    sources = {MODEL: "the model", SHUFFLED: "view 1 shuffled", RANDOM: "random weights"}
    shown = {
        s: words for s, words in sources.items() if table[table.source == s].value.notna().any()
    }
    with figure(1, len(shown), PAGE, 2.3) as (drawn, axes):
        for number, (axis, (source, words)) in enumerate(zip(axes, shown.items(), strict=True)):
            names, sites, shares = skill(table, source)
            titles = [TARGETS[name].title for name in names]
            cells = shares.clamp(0, 1).numpy()
            image = axis.imshow(cells, vmin=0, vmax=1, cmap="viridis", aspect="auto")
            block_ticks(axis, sites)
            axis.set_yticks(range(len(names)), titles if number == 0 else [""] * len(names))
            axis.set_xlabel("end of block")
            axis.set_title(words)
        drawn.colorbar(image, ax=axes, label="share of the mean's error that is gone")
    return drawn
