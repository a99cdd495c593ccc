"""`prob3r info`."""

from typing import Annotated

import typer
from rich.table import Table

from prob3r.cli.app import app, console


@app.command()
def info(
    model: Annotated[
        str | None,
        typer.Argument(
            help="The name of a shipped, published or installed model, a path, a hub id, or a "
            "factory."
        ),
    ] = None,
) -> None:
    """Describe a model without reading its weights; without an argument, list all models."""
    from prob3r.models import info as describe

    if model is None:
        _list()
        return
    found = describe(model)
    height, width = found.config.image_size
    table = Table(show_header=False, title=model)
    most = found.most_views
    table.add_row("architecture", found.architecture)
    table.add_row("images", f"{width}x{height} pixels, patches of {found.config.patch}")
    table.add_row("views", "any number" if most is None else "2" if most == 2 else f"2 to {most}")
    for stack in found.stacks:
        special = (
            f", {len(stack.layouts[-1].special)} special tokens"
            if stack.layouts[-1].special
            else ""
        )
        table.add_row(
            stack.name,
            f"{stack.blocks} blocks, width {stack.width}, {stack.heads} heads{special}",
        )
    table.add_row("parameters", f"{found.parameters:,}")
    table.add_row("memory", f"{found.memory / 2**20:,.0f} MiB in float32")
    table.add_row(
        "sites",
        f"{len(found.sites)} residual ({found.sites[0]} to {found.sites[-1]}), "
        f"{len(found.attention_sites)} attention",
    )
    table.add_row("licence", found.licence or "not stated")
    for name, value in sorted(found.card.items()):
        table.add_row(name, _said(value))
    console.print(table)


def _list() -> None:
    """Print the names of all models, and the architectures that files can hold."""
    from prob3r.models import shipped
    from prob3r.models.architectures import ARCHITECTURES, published_names
    from prob3r.models.factories import installed

    table = Table(show_header=False, title="models")
    table.add_row("shipped", ", ".join(shipped()) or "none")
    table.add_row("architectures of files", ", ".join(ARCHITECTURES))
    table.add_row("published, for info and plan", "\n".join(published_names()))
    offered = "\n".join(f"{name} ({factory})" for name, factory in installed().items())
    table.add_row("from installed packages", offered or "none")
    console.print(table)


def _said(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_said(item)}" for key, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
