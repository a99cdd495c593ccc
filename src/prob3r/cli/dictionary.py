"""`prob3r dictionary`: sparse autoencoders of residual streams, trained and shown."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from prob3r.cli.app import (
    DEFAULT_MODEL,
    Device,
    ModelName,
    Out,
    PrecisionName,
    app,
    console,
    in_precision,
    progress,
)
from prob3r.errors import Prob3rError

if TYPE_CHECKING:
    from prob3r.models import Model
    from prob3r.probes.dictionary import Dictionary
    from prob3r.scenes.source import Scenes
    from prob3r.training.dictionary import DictionaryTraining
    from prob3r.training.loop import Progress

dictionary = typer.Typer(help="Decompose residual streams into sparse atoms.", no_args_is_help=True)
app.add_typer(dictionary, name="dictionary")

RANDOM_SEED = 0  # seed of the random weights of the control


@dictionary.command()
def train(
    model: ModelName = DEFAULT_MODEL,
    sites: Annotated[
        list[str] | None,
        typer.Option(
            help="A pattern of residual sites that share one dictionary, such as 'dec*.3.mlp'; may "
            "be repeated. The default is three sites of the trunk, each in all views."
        ),
    ] = None,
    data: Annotated[
        str, typer.Option(help="The scenes to train on: rooms:train, or another data set.")
    ] = "rooms:train",
    scenes: Annotated[
        int, typer.Option(min=1, help="Number of scenes, a random sample of the data.")
    ] = 512,
    views: Annotated[int, typer.Option(min=2, help="Number of views of each scene.")] = 2,
    atoms: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of atoms; by default four for each channel of the stream."
        ),
    ] = None,
    active: Annotated[
        int, typer.Option(min=1, help="The largest number of active atoms of a token.")
    ] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="Number of tokens to train on.")] = 1_000_000,
    special: Annotated[
        bool, typer.Option("--special", help="Train on special tokens too.")
    ] = False,
    control: Annotated[
        bool,
        typer.Option(help="Also train on the same architecture with random weights, as a control."),
    ] = True,
    seed: Annotated[
        int, typer.Option(help="Seed of the sample, the initial weights and the order.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write into; by default the user's cache.")
    ] = None,
    device: Device = "cpu",
    precision: PrecisionName = "auto",
) -> None:
    """Record activations and train dictionaries on them.

    After an interruption, run the same command again to continue.
    """
    from prob3r.models import fingerprint, load, random
    from prob3r.probes.dictionary import folder_of, usual_sites
    from prob3r.training.dictionary import DictionaryTraining

    network = load(model, device)
    folder = out or folder_of(fingerprint(network))
    patterns = sites or usual_sites(network)
    training = DictionaryTraining(atoms, active, tokens, seed=seed)
    chosen = data, scenes, views, seed
    with in_precision(precision, network, heavy=True):
        _train(network, patterns, chosen, special, training, folder, None)
    if control:
        untrained = random(network, RANDOM_SEED).to(device)
        _train(untrained, patterns, chosen, special, training, folder, RANDOM_SEED)


def _train(
    network: "Model",
    patterns: list[str],
    chosen: tuple[str, int, int, int],
    special: bool,
    training: "DictionaryTraining",
    folder: Path,
    random_seed: int | None,
) -> None:
    """Record activations of one model, train its dictionaries, and print how well they fit."""
    from prob3r.scenes.sampling import sample
    from prob3r.training.activations import record
    from prob3r.training.dictionary import train_dictionary

    data, scenes, views, seed = chosen
    kind = "model" if random_seed is None else "random"
    with progress() as report:
        shards = record(
            network,
            sample(_opened(data, network, views), scenes, seed),
            patterns,
            folder / f"activations-{kind}",
            data=data,
            special=special,
            report=lambda share: report(f"Recording ({kind})", share),
        )
        for pattern in patterns:
            last: dict[str, float] = {}

            def show(
                where: "Progress", pattern: str = pattern, last: dict[str, float] = last
            ) -> None:
                last.update(where.metrics)
                report(f"Training {pattern} ({kind})", where.pairs / where.of_pairs)

            path = train_dictionary(
                network, shards, pattern, training, folder, random_seed=random_seed, report=show
            )
            words = f"Kept {path}, which was trained before"
            if last:
                words = (
                    f"Wrote {path}: {last['unexplained']:.1%} of the variance unexplained, "
                    f"{last['dead']:.1%} of the atoms dead"
                )
            console.print(Text(words), soft_wrap=True)


@dictionary.command()
def gallery(
    model: ModelName = DEFAULT_MODEL,
    source: Annotated[
        str | None,
        typer.Option(
            "--dictionary",
            help="The path of a dictionary, or the pattern of the sites of one in the cache. The "
            "default is the middle one of those in the cache.",
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(help="The scenes in which to look for patches: rooms:test, or a data set."),
    ] = "rooms:test",
    scenes: Annotated[
        int, typer.Option(min=1, help="Number of scenes, a random sample of the data.")
    ] = 96,
    views: Annotated[int, typer.Option(min=2, help="Number of views of each scene.")] = 2,
    atoms: Annotated[int, typer.Option(min=1, help="Number of atoms to show.")] = 24,
    out: Out = Path("atoms.html"),
    device: Device = "cpu",
    precision: PrecisionName = "auto",
) -> None:
    """Show atoms in one HTML page: their strongest patches, and the output without each atom."""
    from prob3r.models import load
    from prob3r.report.gallery import write_gallery
    from prob3r.scenes.sampling import sample

    network = load(model, device)
    found = _dictionary(network, model, source).to(device)
    drawn = sample(_opened(data, network, views), scenes)
    with progress() as report, in_precision(precision, network):
        write_gallery(
            network, found, drawn, out, model_name=model, data=data, atoms=atoms, report=report
        )
    console.print(Text(f"Wrote {out}"), soft_wrap=True)


def _dictionary(network: "Model", model: str, source: str | None) -> "Dictionary":
    """Return the requested dictionary; raise Prob3rError if there is none."""
    from prob3r.models import fingerprint
    from prob3r.probes.dictionary import Dictionary, dictionaries_in, folder_of

    if source is not None and Path(source).suffix == ".safetensors":
        return Dictionary.load(Path(source))
    kept = dictionaries_in(folder_of(fingerprint(network)))
    found = [each for each in kept if each.shape.random_seed is None]
    if source is not None:
        found = [each for each in found if each.shape.sites == source]
    if not found:
        what = "" if source is None else f" of '{source}'"
        raise Prob3rError(
            f"There is no dictionary{what} of {model}; train one with `prob3r dictionary train`."
        )
    return found[len(found) // 2]


def _opened(data: str, network: "Model", views: int) -> "Scenes[Any]":
    """Return the scenes of a data set, each with a given number of views."""
    from prob3r.scenes.several import open_views

    return open_views(data, network, views, next(network.parameters()).device)
