"""The figures of the study of the pose."""

from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.measures.statistics import median_interval, medians, wide
from prob3r.measures.steps import SUBLAYER_WORDS
from prob3r.measures.tokens import CHOSEN, COUNT, MASS
from prob3r.models.sites import ATTENTION
from prob3r.studies.framework.figures import COLOURS, PAGE, band, figure
from prob3r.studies.framework.tested import MODEL, POSITIVE
from prob3r.studies.pose.contrasts import by_cut, rows_of
from prob3r.studies.pose.knockouts import (
    ALL,
    BLOCK,
    HEAD,
    ISOLATED,
    MASK,
    MODES,
    OUTPUT_MODES,
    OUTPUTS,
    REST,
    STRENGTH,
    ZERO,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {CHOSEN: COLOURS["hard"], COUNT: COLOURS["control"], MASS: COLOURS["easy"]}
_NAMES = {CHOSEN: "as named", COUNT: "random, as many", MASS: "random, as much attention"}
_MODE_NAMES = {MASK: "masked", ZERO: "zeroed"}
_TURN = "change of rotation\nerror (degrees)"


def draw_knockouts(table: pd.DataFrame) -> "Figure":
    """Return cuts of many tokens with their controls, models in rows and scopes in columns."""
    sources = [source for source in (MODEL, POSITIVE) if (table.source == source).any()]
    with figure(len(sources), 3, PAGE, 1.8) as (drawn, axes):
        panels = [(source, scope) for source in sources for scope in (ISOLATED, ALL, REST)]
        for axis, (source, scope) in zip(axes, panels, strict=True):
            modes = {mode: rows_of(table, source, scope, mode) for mode in MODES}
            modes = {mode: rows for mode, rows in modes.items() if len(rows)}
            for place, rows in enumerate(modes.values()):
                for shift, (cut, values) in enumerate(by_cut(rows).items()):
                    found = median_interval(values)
                    around = [[found.value - found.low], [found.high - found.value]]
                    x = place + 0.22 * (shift - 1)
                    axis.bar(x, found.value, 0.2, color=_COLOURS[cut], label=_NAMES[cut])
                    axis.errorbar(x, found.value, around, color=COLOURS["all"], lw=0.8, capsize=1.5)
            keys = _keys(table, source)
            words = {
                ISOLATED: "marked tokens isolated",
                ALL: f"{keys} cut",
                REST: "all but those cut",
            }
            axis.set_title(f"{source}: {words[scope]}")
            axis.axhline(0, color=COLOURS["all"], lw=0.6)
            axis.set_xticks(range(len(modes)), [_MODE_NAMES[mode] for mode in modes])
            axis.set_xlim(-0.5, max(len(modes), 1) - 0.5)
        for axis in axes[::3]:
            axis.set_ylabel(_TURN)
        labelled = [axis.get_legend_handles_labels() for axis in axes]
        bars = {
            name: bar
            for handles, names in labelled
            for name, bar in zip(names, handles, strict=True)
        }
        drawn.legend(bars.values(), bars.keys(), loc="outside lower center", ncols=3)
    return drawn


def draw_head_sinks(table: pd.DataFrame) -> "Figure":
    """Return the strength of the sinks of every head, and the effect of cutting them."""
    own = table[table.source == MODEL]
    strengths, cuts = own[own.scope == STRENGTH], rows_of(own, MODEL, HEAD, MASK)
    columns = {
        "strongest key\n(times its share)": strengths,
        f"{_keys(own, MODEL)} of a head cut\n(degrees; dot: may be zero)": cuts[cuts.cut == CHOSEN],
        "as much attention, at random\n(degrees; dot: may be zero)": cuts[cuts.cut == MASS],
    }
    kinds = _kinds(own)
    changes = [
        _map(rows[rows.sublayer == sublayer], strengths).median
        for rows in list(columns.values())[1:]
        for sublayer in kinds
    ]
    limit = float(torch.stack(changes).nan_to_num(0).abs().max()) or 1.0
    with figure(len(kinds), len(columns), PAGE, 1.9) as (drawn, axes):
        panels = [(sublayer, title) for sublayer in kinds for title in columns]
        for axis, (sublayer, title) in zip(axes, panels, strict=True):
            rows = columns[title]
            found = _map(rows[rows.sublayer == sublayer], strengths)
            _draw_map(axis, found, None if rows is strengths else limit)
            if sublayer == kinds[0]:
                axis.set_title(title)
            if sublayer == kinds[-1]:
                axis.set_xlabel("block")
        for axis, sublayer in zip(axes[:: len(columns)], kinds, strict=True):
            axis.set_ylabel(f"head of {SUBLAYER_WORDS[sublayer]}")
    return drawn


def draw_block_cuts(table: pd.DataFrame) -> "Figure":
    """Return the effect of cutting one block: its sinks, or the outputs of all its heads."""
    own = table[table.source == MODEL]
    kinds = _kinds(own)
    with figure(1, 1 + len(kinds), PAGE, 2.7) as (drawn, axes):
        for cut, colour in _COLOURS.items():
            rows = rows_of(own, MODEL, BLOCK, MASK)
            blocks, values = wide(rows[rows.cut == cut], "block")
            band(axes[0], blocks, *medians(values), colour, _NAMES[cut])
        axes[0].set_title(f"{_keys(own, MODEL)} of a block masked")
        for axis, sublayer in zip(axes[1:], kinds, strict=True):
            for mode, style in zip(OUTPUT_MODES, ("-", "--", ":"), strict=True):
                rows = rows_of(own, MODEL, OUTPUTS, mode)
                blocks, values = wide(rows[rows.sublayer == sublayer], "block")
                if len(blocks):
                    band(axis, blocks, *medians(values), COLOURS[sublayer], mode, style)
            axis.set_title(f"{SUBLAYER_WORDS[sublayer]}: outputs replaced")
        for axis in axes:
            axis.axhline(0, color=COLOURS["all"], lw=0.6)
            axis.set_xlabel("block")
            axis.set_xticks(sorted(set(own[own.block >= 0].block)))
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
        axes[0].set_ylabel(_TURN)
    return drawn


def _kinds(table: pd.DataFrame) -> list[str]:
    """Return the kinds of attention in a table."""
    return [kind for kind in ATTENTION if (table.sublayer == kind).any()]


def _keys(table: pd.DataFrame, source: str) -> str:
    """Return what the keys that are cut are to be called."""
    rows = table[(table.source == source) & (table.scope == ALL)]
    return "sinks" if rows.sinks.any() else "strongest keys"


class _Map(NamedTuple):
    """A median for every head, NaN where it has none, and where its interval excludes zero."""

    median: Float[Tensor, "k d"]
    sure: Bool[Tensor, "k d"]


def _map(rows: pd.DataFrame, heads: pd.DataFrame) -> _Map:
    """Return the medians of rows over the grid of all heads and blocks."""
    shape = int(heads["head"].max()) + 1, int(heads.block.max()) + 1
    found = _Map(torch.full(shape, torch.nan), torch.zeros(shape, dtype=torch.bool))
    for cell, values in rows.groupby(["head", "block"]).value:
        where: tuple[int, int] = cell  # type: ignore[assignment]
        over = median_interval(torch.tensor(values.to_numpy()))
        found.median[where] = over.value
        found.sure[where] = over.low > 0 or over.high < 0
    return found


def _draw_map(axis: "Axes", found: _Map, limit: float | None) -> None:
    """Draw a map; of changes up to a limit, with a dot where the interval includes zero.

    Heads without a number stay grey.
    """
    scale: dict[str, Any] = {"cmap": "cividis"}
    if limit is not None:
        scale = {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit}
        rows, columns = (~found.sure & ~found.median.isnan()).nonzero(as_tuple=True)
        axis.scatter(columns.tolist(), rows.tolist(), s=4, color=COLOURS["all"], linewidths=0)
    drawn = axis.imshow(found.median.numpy(), aspect="auto", **scale)
    axis.set_facecolor("#dde3e8")
    heads, blocks = found.median.shape
    axis.set_xticks(range(blocks))
    axis.set_yticks(range(heads))
    axis.figure.colorbar(drawn, ax=axis)
