"""`prob3r dictionary`: sparse autoencoders of residual streams."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from prob3r.cli.app import (
    DEFAULT_MODEL,
    Device,
    ModelName,
    PrecisionName,
    app,
    console,
    in_precision,
    progress,
)

if TYPE_CHECKING:
    from prob3r.models import Model
    from prob3r.training.dictionary import DictionaryTraining
    from prob3r.training.loop import Progress

dictionary = typer.Typer(
    help="Take residual streams apart into sparse atoms.", no_args_is_help=True
)
app.add_typer(dictionary, name="dictionary")

RANDOM_SEED = 0  # of the weights of the control


@dictionary.command()
def train(
    model: ModelName = DEFAULT_MODEL,
    sites: Annotated[
        list[str] | None,
        typer.Option(
            help="A pattern of residual sites that share one dictionary, such as 'dec*.3.mlp'; may "
            "be repeated. By default three places of the trunk, in all views."
        ),
    ] = None,
    data: Annotated[str, typer.Option(help="rooms:train, or other scenes.")] = "rooms:train",
    scenes: Annotated[int, typer.Option(min=1, help="How many of them, a sample.")] = 512,
    views: Annotated[int, typer.Option(min=2, help="Of each scene.")] = 2,
    atoms: Annotated[
        int | None, typer.Option(min=1, help="By default four for each channel of the stream.")
    ] = None,
    active: Annotated[int, typer.Option(min=1, help="The most active atoms of a token.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="How many to see.")] = 1_000_000,
    special: Annotated[bool, typer.Option("--special", help="Read special tokens too.")] = False,
    control: Annotated[
        bool, typer.Option(help="Also train on the like of the model with random weights.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the sample, the weights and the order.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write into; by default the user's cache.")
    ] = None,
    device: Device = "cpu",
    precision: PrecisionName = "auto",
) -> None:
    """Record activations and train dictionaries on them; the same command goes on after a stop."""
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
    """Record and train for one model, and print what came out."""
    from prob3r.scenes.sampling import sample
    from prob3r.scenes.several import open_views
    from prob3r.scenes.source import open_pairs
    from prob3r.training.activations import record
    from prob3r.training.dictionary import train_dictionary

    data, scenes, views, seed = chosen
    device = next(network.parameters()).device
    source = (
        open_pairs(data, network, device)
        if views == 2
        else open_views(data, network, views, device)
    )
    kind = "model" if random_seed is None else "random"
    with progress() as report:
        shards = record(
            network,
            sample(source, scenes, seed),
            patterns,
            folder / f"activations-{kind}",
            data=data,
            special=special,
            report=lambda share: report(f"Recording ({kind})", share),
        )
        for pattern in patterns:
            last = [0.0, 0.0]

            def show(where: "Progress", pattern: str = pattern, last: list[float] = last) -> None:
                last[:] = where.metrics.get("unexplained", 0.0), where.metrics.get("dead", 0.0)
                report(f"Training {pattern} ({kind})", where.pairs / where.of_pairs)

            path = train_dictionary(
                network, shards, pattern, training, folder, random_seed=random_seed, report=show
            )
            words = f"{last[0]:.1%} of the variance unexplained, {last[1]:.1%} of the atoms dead"
            console.print(Text(f"Wrote {path}: {words}"), soft_wrap=True)
