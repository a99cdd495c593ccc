"""A model's own heads, run on any block of its trunk: its output if the trunk ended there.

Nothing is learned. For models with linear heads a `Lens` does the same at every site.
"""

from collections.abc import Iterable, Iterator

import torch

from prob3r.errors import Prob3rError
from prob3r.models.protocol import Cameras, Model, Prediction, ReadsBlocks, trunk
from prob3r.runs.edits import Edit, Editor, Setting
from prob3r.scenes.views import Views


def at_blocks(
    model: Model, views: Views, blocks: Iterable[int] | None = None, edits: Iterable[Edit] = ()
) -> Iterator[tuple[int, Prediction]]:
    """Yield the number of each block, and the output of the model's own heads at that block.

    The model runs once. At the last block the output is that of the model. `what_is_read`
    describes what the heads read at another block.

    Args:
        model: A VGGT, π³, Depth Anything 3, or another `ReadsBlocks`.
        views: A scene, or a batch of scenes.
        blocks: Numbers of blocks of the trunk. The default is all.
        edits: Changes to the run, in the trunk and in the heads.

    Raises:
        Prob3rError: The model is not a `ReadsBlocks`, it has no such block, or an edit does not
            fit.
    """
    reader = _reader(model)
    chosen, editor = _chosen(model, blocks), Editor(edits, Setting.of(model, views))
    with torch.no_grad():
        found = reader.at_blocks(chosen, *views.images, tap=editor)
        yield from zip(chosen, found, strict=True)


def cameras_at_blocks(
    model: Model, views: Views, blocks: Iterable[int] | None = None, edits: Iterable[Edit] = ()
) -> dict[int, Cameras]:
    """Return only the cameras of `at_blocks`, by block, without the cost of the other heads.

    Arguments and errors are those of `at_blocks`.
    """
    reader = _reader(model)
    chosen, editor = _chosen(model, blocks), Editor(edits, Setting.of(model, views))
    with torch.no_grad():
        found = reader.cameras_at_blocks(chosen, *views.images, tap=editor)
        return dict(zip(chosen, found, strict=True))


def what_is_read(model: Model) -> str:
    """Return the sentence that says what the model's heads read at a block.

    Raises:
        Prob3rError: The model is not a `ReadsBlocks`.
    """
    return _reader(model).early


def _reader(model: Model) -> ReadsBlocks:
    if not isinstance(model, ReadsBlocks):
        raise Prob3rError(
            f"The heads of a {type(model).__name__} cannot be run at other blocks; use a lens or "
            "probes."
        )
    return model


def _chosen(model: Model, blocks: Iterable[int] | None) -> list[int]:
    count = trunk(model).blocks
    chosen = list(range(count) if blocks is None else blocks)
    if wrong := [block for block in chosen if not 0 <= block < count]:
        raise Prob3rError(f"There is no block {wrong[0]}; blocks count from 0 to {count - 1}.")
    return chosen
