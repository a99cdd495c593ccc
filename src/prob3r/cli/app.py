"""What all commands share: the application, its consoles, options and progress bar."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from prob3r.errors import Prob3rError

if TYPE_CHECKING:  # each command imports what it needs, so that --help is quick
    import torch

    from prob3r.models import Model
    from prob3r.scenes import Framing, Pair, Views
    from prob3r.scenes.source import Subset

app = typer.Typer(
    help="Look inside multi-view transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DEFAULT_MODEL = "mini"
TABLE_WIDTH = 140

console = Console()
errors = Console(stderr=True)

ModelName = Annotated[
    str,
    typer.Option(
        help="The name of a shipped or installed model, a path, a hub id, or "
        "package.module:factory; the code of a factory is executed."
    ),
]
Out = Annotated[Path, typer.Option(help="Where to write.")]
Overlap = Annotated[
    tuple[float, float] | None,
    typer.Option(
        help="Use only pairs whose overlap lies between two shares, from 0 to 1.",
        metavar="LOW HIGH",
    ),
]
Rotation = Annotated[
    tuple[float, float] | None,
    typer.Option(
        help="Use only pairs whose relative rotation lies between two angles, in degrees.",
        metavar="LOW HIGH",
    ),
]
Device = Annotated[str, typer.Option(help="The device to compute on: cpu, cuda, cuda:1, …")]
Size = Annotated[
    int | None,
    typer.Option(
        help="The longer side of the photographs in pixels, or the side of the square if the model "
        "takes squares. It must be a multiple of the patch size. The default is the model's own "
        "size; a smaller size is faster."
    ),
]
PrecisionName = Annotated[
    str,
    typer.Option(
        "--precision",
        help="Precision of the matrix products: auto, float32 or bfloat16. auto uses bfloat16 for "
        "fitting and sweeping, if the hardware computes in it.",
    ),
]


@contextmanager
def in_precision(
    asked: str, network: "Model", *others: "Model | None", heavy: bool = False
) -> Iterator[None]:
    """Run models in the requested precision inside the context; see `prob3r.runs.precision`."""
    from prob3r.runs.precision import choose, running_in

    models = [network, *(other for other in others if other is not None)]
    with running_in(choose(asked, next(network.parameters()).device, heavy=heavy), *models):
        yield


def framing_of(network: "Model", size: int | None) -> "Framing":
    """Return the framing of photographs for a model, at another size if one is given."""
    from dataclasses import replace

    from prob3r.scenes import Framing

    framing = Framing.of(network)
    return framing if size is None else replace(framing, size=size)


def pair_of(image1: Path, image2: Path | None, network: "Model", size: int | None = None) -> "Pair":
    """Return two photographs, or the pair of a folder, on the device of the model.

    Raises:
        Prob3rError: One photograph is given alone, or a file cannot be read.
    """
    from prob3r.scenes import Pair

    framing = framing_of(network, size)
    device = next(network.parameters()).device
    if image2 is not None:
        return Pair.from_images([image1, image2], framing).to(device)
    if not image1.is_dir():
        raise Prob3rError(
            f"{image1} alone is no pair; give two photographs, or one folder with a pair.json."
        )
    return Pair.from_folder(image1, framing).to(device)


def views_of(images: "list[Path]", network: "Model", size: int | None = None) -> "Views":
    """Return photographs of one scene, or the pair of a folder, on the device of the model.

    Raises:
        Prob3rError: One photograph is given alone, there are more than the model takes, or a file
            cannot be read.
    """
    from prob3r.report.explain import check_count
    from prob3r.scenes import Views

    if len(images) <= 2:
        return pair_of(images[0], images[1] if len(images) == 2 else None, network, size)
    check_count(network, len(images))  # before the photographs are read
    framing = framing_of(network, size)
    return Views.from_images(images, framing).to(next(network.parameters()).device)


def check_views(network: "Model", model: str, views: int) -> None:
    """Raise Prob3rError if a model takes fewer views than are asked for."""
    most = network.most_views
    if most is not None and most < views:
        raise Prob3rError(f"{model} takes at most {most} views, and --views is {views}.")


def chosen(
    data: str,
    network: "Model",
    device: "torch.device | str",
    count: int,
    overlap: tuple[float, float] | None = None,
    rotation: tuple[float, float] | None = None,
) -> "Subset":
    """Return a sample of the pairs of a data set, and show a progress bar.

    With bounds on the overlap (shares) or the rotation (degrees), only pairs within them are drawn.
    """
    from prob3r.scenes.sampling import choose
    from prob3r.scenes.source import open_pairs

    source = open_pairs(data, network, device)
    with progress() as report:
        return choose(
            source,
            count,
            overlap,
            rotation,
            workers=os.cpu_count() or 1,
            report=lambda found, wanted: report("Choosing pairs", found / wanted),
        )


@contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """Yield a function that shows the current work and the share of it that is done, 0 to 1."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    hidden = not errors.is_terminal  # in a log file the bar would leave an empty line
    with Progress(*columns, console=errors, transient=True, disable=hidden) as bar:
        task = bar.add_task("Loading", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)


def wide(to: Console) -> Console:
    """Return a console wide enough that no number of a table is cut.

    A terminal that is narrower wraps the lines.
    """
    return Console(file=to.file, width=max(to.width, TABLE_WIDTH))
