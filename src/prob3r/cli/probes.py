"""`prob3r probes`: fit banks in closed form, and manage those in the cache."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from prob3r.cli.app import DEFAULT_MODEL, Device, ModelName, PrecisionName, app, console, wide
from prob3r.cli.banks import FitOn, FitTo, asked, shown
from prob3r.errors import Prob3rError

if TYPE_CHECKING:
    from prob3r.probes.cache import Kept

probes = typer.Typer(help="Fit probes in closed form, and keep them.", no_args_is_help=True)
app.add_typer(probes, name="probes")

OneModel = Annotated[
    str | None,
    typer.Option("--model", help="Only banks of this model; by default those of all models."),
]
Name = Annotated[str, typer.Argument(help="The name of a bank, as `prob3r probes list` prints it.")]


@probes.command("list")
def list_banks(model: OneModel = None) -> None:
    """List the banks in the cache, with the model, target and data of each."""
    from prob3r.probes.cache import folder, kept

    found = kept(None if model is None else _fingerprint(model))
    if not found:
        console.print(Text(f"There are no banks in {folder()}."), soft_wrap=True)
        return
    table = Table(
        "name", "model", "kind", "target", "fitted to", "fitted on", "scenes", "error", "size"
    )
    for bank in found:
        fit = bank.fit
        table.add_row(
            bank.name,
            bank.model,
            bank.kind,
            fit.target,
            fit.whose,
            fit.data,
            f"{fit.scenes} of {fit.views} views",
            f"{sum(fit.errors) / len(fit.errors):.3f}",
            f"{bank.path.stat().st_size / 2**20:.0f} MiB",
        )
    table.caption = (
        f"in {folder()}; error: mean over all sites, on held-out scenes; for pointmaps it is the "
        "distance of points, in units of the mean distance of all points to camera 1"
    )
    wide(console).print(table)


@probes.command()
def fit(
    model: ModelName = DEFAULT_MODEL,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Kind of probes: ridge, features, random or encoder; may be repeated."),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            help="What the probes predict: pointmap, depth, normal, covisibility, match, instance, "
            "pose or epipolar."
        ),
    ] = "pointmap",
    token: Annotated[
        str,
        typer.Option(
            help="For pose and epipolar: the special token to read, such as camera. The default is "
            "the mean of the patches."
        ),
    ] = "",
    fit_to: FitTo = None,
    fit_on: FitOn = None,
    scenes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of scenes; the default depends on the width of the streams."
        ),
    ] = None,
    views: Annotated[int, typer.Option(min=2, help="Number of views of each scene.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the sample, and of random features.")] = 0,
    device: Device = "cpu",
    precision: PrecisionName = "auto",
) -> None:
    """Fit banks in closed form and keep them; existing banks of the same kind are fitted again."""
    from dataclasses import replace

    from prob3r.models import load
    from prob3r.probes import provide
    from prob3r.probes.targets import WHOSE, target_named

    if target in WHOSE:
        raise Prob3rError(f"There is no target '{target}'; say whose with --fit-to {target}.")
    measure = target_named(target).measures[0]
    network = load(model, device)
    which = asked(fit_to, fit_on, precision, scenes)
    which = replace(which, views=views, seed=seed, target=target, token=token)
    with shown() as show:
        found = provide(network, kind or ["ridge"], which, Path(model).name, show, again=True)
    for bank in found.values():
        assert bank.fit is not None
        error = sum(bank.fit.errors) / len(bank.fit.errors)
        words = (
            f"{len(bank.sites)} {bank.kind} probes, {bank.fit.words}: mean {measure} {error:.3f}"
        )
        console.print(Text(f"{words} on {bank.fit.held_out} held-out scenes"), soft_wrap=True)


@probes.command()
def remove(
    names: Annotated[list[str] | None, typer.Argument(help="Names of banks.")] = None,
    model: OneModel = None,
    every: Annotated[bool, typer.Option("--all", help="Delete all banks.")] = False,
) -> None:
    """Delete banks from the cache: banks by name, all banks of a model, or all banks."""
    from prob3r.probes.cache import kept

    if sum((bool(names), model is not None, every)) != 1:
        raise Prob3rError("remove needs names of banks, --model, or --all.")
    chosen = [_bank(name) for name in names or ()]
    chosen = chosen or kept(None if model is None else _fingerprint(model))
    for bank in chosen:
        bank.remove()
    console.print(f"Removed {len(chosen)} banks.")


@probes.command()
def push(
    name: Name,
    repository: Annotated[str, typer.Argument(help="owner/name on the hub.")],
    private: Annotated[
        bool,
        typer.Option("--private", help="Make the repository private, if it is created now."),
    ] = False,
) -> None:
    """Upload a bank from the cache to the hub."""
    url = _bank(name).load().push_to_hub(repository, private=private or None)
    console.print(Text(f"Uploaded {url}"), soft_wrap=True)


@probes.command()
def pull(
    repository: Annotated[str, typer.Argument(help="owner/name, or owner/name@revision.")],
    model: ModelName,
) -> None:
    """Download a fitted bank from the hub, and keep it in the cache for a model."""
    from prob3r.probes import RidgeBank, load_probes
    from prob3r.probes.cache import keep

    bank = load_probes(repository)
    if not isinstance(bank, RidgeBank) or bank.fit is None:
        raise Prob3rError(
            f"'{repository}' holds a bank that was not fitted in closed form; give it to --probes."
        )
    weights = _fingerprint(model)
    if bank.random_seed is None and bank.backbone != weights:
        raise Prob3rError(
            f"'{repository}' holds probes of the model {bank.backbone}, and {model} is {weights}."
        )
    console.print(Text(f"Wrote {keep(bank, weights)}"), soft_wrap=True)


def _fingerprint(model: str) -> str:
    from prob3r.models import fingerprint, load

    return fingerprint(load(model))


def _bank(name: str) -> "Kept":
    from prob3r.probes.cache import kept

    found = [bank for bank in kept() if bank.name == name]
    if len(found) != 1:
        raise Prob3rError(f"There is no bank '{name}'; see `prob3r probes list`.")
    return found[0]
