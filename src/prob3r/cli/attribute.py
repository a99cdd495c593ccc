"""`prob3r attribute`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from prob3r.cli.app import (
    DEFAULT_MODEL,
    Device,
    ModelName,
    PrecisionName,
    Size,
    app,
    console,
    in_precision,
    views_of,
)
from prob3r.errors import Prob3rError

if TYPE_CHECKING:
    from torch import Tensor

    from prob3r.measures.scalars import Scalar
    from prob3r.models import Model
    from prob3r.runs.attribution import Attribution, Baseline
    from prob3r.scenes import Views

OF = ("rotation", "translation", "depth", "sampson", "truth")
BASELINES = ("zero", "tokens")

Box = tuple[int, int, int, int]


@app.command()
def attribute(
    images: Annotated[
        list[Path],
        typer.Argument(help="Photographs of one scene, view 1 first; or the folder of a pair."),
    ],
    of: Annotated[str, typer.Option(help=f"What to explain: {', '.join(OF)}.")] = "rotation",
    view: Annotated[
        int | None,
        typer.Option(
            help="The view whose camera or points are explained. The default is 2, for depth 1, "
            "and for truth all views."
        ),
    ] = None,
    region: Annotated[
        Box | None,
        typer.Option(
            help="Only for depth: a box, in pixels of the image that the model sees.",
            metavar="LEFT TOP RIGHT BOTTOM",
        ),
    ] = None,
    model: ModelName = DEFAULT_MODEL,
    baseline: Annotated[
        str,
        typer.Option(
            help="What replaces a part: zero, or tokens, which is the mean over the tokens of its "
            "view."
        ),
    ] = "zero",
    means: Annotated[
        Path | None,
        typer.Option(help="Replace a part by means from this file of `prob3r means`."),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="Replace a part by that of a run on other photographs; give this option once for "
            "each view."
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(min=1, help="Steps of integrated gradients; more than 1 takes much longer."),
    ] = 1,
    top: Annotated[int, typer.Option(min=1, help="How many parts to print.")] = 10,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Also write the effects of all parts to this file."),
    ] = None,
    size: Size = None,
    device: Device = "cpu",
    precision: PrecisionName = "auto",
) -> None:
    """Show which heads and sublayers decide a camera, a depth or an error, from one gradient."""
    from prob3r.models import load
    from prob3r.runs.attribution import attribute as attributed

    network = load(model, device)
    views = views_of(images, network, size)
    scalar = _scalar(of, view, region, views)
    instead = _baseline(network, baseline, means, against, size)
    with in_precision(precision, network):
        found = attributed(network, views, scalar, instead, steps=steps)
    _print(found, scalar, top)
    if json_file is not None:
        _write(json_file, found, scalar, network, model, views)
        console.print(Text(f"Wrote {json_file}"), soft_wrap=True)


def _scalar(of: str, view: int | None, region: Box | None, views: "Views") -> "Scalar":
    """Return the quantity to explain.

    Raises:
        Prob3rError: There is no such quantity or view, or the region does not fit.
    """
    from prob3r.measures import scalars

    if of not in OF:
        raise Prob3rError(f"of is '{of}'; it must be one of {', '.join(OF)}.")
    if region is not None and of != "depth":
        raise Prob3rError(f"A region is given, and {of} has none; give it with --of depth.")
    if view is not None:
        views.view(view)  # raises Prob3rError if there is no such view
    if of == "depth":
        return scalars.RegionDepth(
            view or 1, None if region is None else _mask(region, views, view or 1)
        )
    if of == "truth":
        return scalars.TruthDistance(view)
    if view == 1:
        raise Prob3rError("view is 1, whose camera is the origin; give the number of another view.")
    number = view or 2
    if of == "sampson":
        return scalars.Sampson(*_matches(views, number), number)
    return scalars.Rotation(number) if of == "rotation" else scalars.Translation(number)


def _mask(region: Box, views: "Views", view: int) -> "Tensor":
    """Return a mask (h, w) of the pixels in a box; raise Prob3rError if it leaves the view."""
    import torch

    height, width = views.view(view).size
    left, top, right, bottom = region
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise Prob3rError(
            f"The region is {left} {top} {right} {bottom}, and view {view} is {width} pixels wide "
            f"and {height} high as the model sees it; give a box within the view."
        )
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def _matches(views: "Views", view: int) -> "tuple[Tensor, Tensor]":
    """Return matches between view 1 and another view, by the best matcher that is installed.

    Returns:
        The pixels (x, y) in view 1 and in the other view, each (1, matches, 2).

    Raises:
        Prob3rError: No matcher is installed, or it finds no match.
    """
    from prob3r.reliability.matchers import MATCHERS, best_matcher

    matcher = best_matcher()
    if matcher is None:
        raise Prob3rError(
            "sampson needs matches, and no matcher is installed; install one with pip install "
            "'prob3r[matching]'."
        )
    found = MATCHERS[matcher](views.view(1).image[0], views.view(view).image[0])
    if not len(found.pixels1):
        raise Prob3rError(
            f"{matcher} finds no match between views 1 and {view}, and sampson needs matches; use "
            "--of rotation."
        )
    return found.pixels1[None], found.pixels2[None]


def _baseline(
    network: "Model",
    name: str,
    means: Path | None,
    against: list[Path] | None,
    size: int | None,
) -> "Baseline":
    """Return the baseline that replaces a part; raise Prob3rError for an unknown or double one."""
    from prob3r.runs.attribution import AnotherRun, DataMean, TokenMean, Zero
    from prob3r.runs.edits import Means

    if means is not None and against:
        raise Prob3rError(
            "Both means and another run are given to replace a part; give only one of them."
        )
    if means is not None:
        return DataMean(Means.load(means))
    if against:
        return AnotherRun(views_of(against, network, size))
    if name not in BASELINES:
        raise Prob3rError(f"baseline is '{name}'; it must be {' or '.join(BASELINES)}.")
    return Zero() if name == "zero" else TokenMean()


def _print(found: "Attribution", scalar: "Scalar", count: int) -> None:
    """Print the parts that matter most, with the signs and the unit of their effects."""
    parts = found.top(count)
    table = Table("part", "effect")
    table.columns[1].justify = "right"
    for part in parts:
        table.add_row(part.words, f"{part.effect:+.3g}{scalar.unit}")
    how = "to first order" if found.steps == 1 else f"by integrated gradients, {found.steps} steps"
    title = f"The {len(parts)} parts that matter most for {scalar.words}"
    console.print(Text(title, "bold"), soft_wrap=True)
    console.print(table)
    about = (
        f"Effect: the change of this quantity if the part is replaced by {found.baseline}, {how}. "
        f"+ means: {scalar.more}. Without a change it is {float(found.value[0]):.3g}{scalar.unit}."
    )
    console.print(Text(about), soft_wrap=True)


def _write(
    path: Path,
    found: "Attribution",
    scalar: "Scalar",
    network: "Model",
    model: str,
    views: "Views",
) -> None:
    """Write the effects of all parts as JSON."""
    from prob3r.models.sites import Site
    from prob3r.studies.framework.results import frames_of, provenance, write_result

    protocol = {
        "name": "attribute",
        "of": scalar.name,
        "words": scalar.words,
        "baseline": found.baseline,
        "steps": found.steps,
    }
    rows = [
        {
            "site": part.site,
            "view": Site.parse(part.site).view,
            "block": Site.parse(part.site).block,
            "head": part.head,
            "effect": part.effect,
        }
        for part in found.parts()
    ]
    about = provenance(network, model, "photographs", protocol, frames_of(views.names, "one scene"))
    content = {"unit": scalar.unit.strip(), "value": float(found.value[0]), "rows": rows}
    write_result(about | content, path)
