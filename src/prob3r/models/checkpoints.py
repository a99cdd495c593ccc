"""Weights on disk: prob3r's own files, and the layouts of published weights.

| layout | what it is |
|---|---|
| prob3r | a `.safetensors` file; its header holds architecture and configuration as JSON |
| hub | a folder with `config.json` and `model.safetensors`, maybe in shards; or that file alone |
| official | a `.pth` or `.pt` file; the reader of its architecture interprets it |

Tensors are memory-mapped from the file, not copied, and become the model's parameters. Do not
change a file in place while its model is in use; `save` replaces the file. No code in a file ever
runs: pickles are read by torch's restricted unpickler, and model strings are parsed.
"""

import argparse
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.io.files import writing_to
from prob3r.models.architectures import ARCHITECTURES, PUBLISHED
from prob3r.models.protocol import MultiViewModel

AnyModule = TypeVar("AnyModule", bound=nn.Module)

WEIGHTS = "model.safetensors"
"""The name of a hub folder's weights."""

SHARDS = "model-*-of-*.safetensors"
"""The pattern of the names of weights in several files."""

INDEX = "model.safetensors.index.json"
"""The name of the file that lists the shards."""

_HEADER = "prob3r"

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Checkpoint(NamedTuple):
    """The content of a file, before a model is built from it.

    Attributes:
        path: Path of the file or folder.
        card: `architecture`, `config`, and all other metadata that was saved with the weights.
        weights: The tensors in the file by their names there, memory-mapped.
    """

    path: Path
    card: dict[str, Any]
    weights: dict[str, Tensor]

    def build(self) -> MultiViewModel:
        """Return the model, float32 and in eval mode.

        Raises:
            Prob3rError: The weights do not fit the configuration, or are not finite.
        """
        config = config_of(self.card, self.path)
        # Every block has weights. With a damaged depth, building the blocks could take hours.
        if config.blocks > len(self.weights):
            raise Prob3rError(
                f"{self.path} has {len(self.weights)} weights, too few for the {config.blocks} "
                "blocks of its configuration."
            )
        name = self.card["architecture"]
        with torch.device("meta"):
            model = ARCHITECTURES[name](config)
        with _told_of(self.path):
            weights = PUBLISHED[name].renamed(self.weights)
        _check(self.path, weights, model.state_dict())
        single = {name: tensor.float() for name, tensor in weights.items()}
        model.load_state_dict(single, assign=True)
        return model.eval()


def read(path: Path) -> MultiViewModel:
    """Return the model in a file or folder of any known layout, float32 and in eval mode.

    Raises:
        Prob3rError: It does not exist, is damaged, or its weights do not fit its configuration;
            the message names the weights.
    """
    return open_checkpoint(path).build()


def open_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in a file or folder of any known layout, with memory-mapped weights.

    Raises:
        Prob3rError: It does not exist, is damaged, or is not a checkpoint.
    """
    if not path.exists():
        raise Prob3rError(f"There is no file or folder {path}.")
    if path.is_dir():
        return _open_hub(path)
    return _open_own(path) if path.suffix == ".safetensors" else _open_official(path)


def read_card(path: Path) -> dict[str, Any]:
    """Return the card of a file or folder of any known layout: architecture, `config`, metadata.

    Only `config.json` of a hub folder is read; the weights may be missing.

    Raises:
        Prob3rError: It does not exist, is damaged, or is not a checkpoint.
    """
    listing = path / "config.json"
    return _listed(listing, None) if listing.is_file() else open_checkpoint(path).card


def save(
    model: MultiViewModel,
    path: Path,
    metadata: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model as one `.safetensors` file; on failure, no partial file is left.

    Args:
        model: The model.
        path: The file; its name must end in `.safetensors`.
        metadata: Further values for the header; they must fit JSON.
        dtype: Floating-point type on disk. Reading always gives float32.

    Raises:
        Prob3rError: A weight is not finite, or too large for `dtype`, or the file can't be written.
    """
    weights = {
        name: tensor.detach().to("cpu", dtype) for name, tensor in model.state_dict().items()
    }
    _check_finite(path, weights)
    identity = {"architecture": model.architecture, "config": model.config.to_dict()}
    write_tensors(path, weights, {**(metadata or {}), **identity})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header as one `.safetensors` file; never leave a partial file.

    Raises:
        Prob3rError: The name does not end in `.safetensors`, or the file can't be written.
    """
    if path.suffix != ".safetensors":
        raise Prob3rError(f"{path} is no name for weights; it must end in .safetensors.")
    contents = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with writing_to(path) as temporary:
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(contents, temporary, {_HEADER: json.dumps(header, sort_keys=True)})
            temporary.chmod(mode)  # safetensors makes files that only their owner can read
        except SafetensorError as error:
            raise Prob3rError(f"{path} cannot be written: {error}.") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return the memory-mapped tensors of a `.safetensors` file, and its JSON header or None.

    Raises:
        Prob3rError: The file is missing, damaged, or not a `.safetensors` file.
    """
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise Prob3rError(
            f"{path} is not a whole .safetensors file ({error}); copy or download it again."
        ) from error
    return tensors, None if text is None else _json_object(text, path)


def filled(
    make: Callable[[], AnyModule], tensors: Mapping[str, Tensor], path: Path, what: str
) -> AnyModule:
    """Return a module that a file's header describes, with the file's weights in float32.

    Args:
        make: Makes the module. It is made without memory for its weights, so that a damaged width
            in the header does no harm.
        tensors: The tensors of the file.
        path: The file.
        what: What the file holds, for messages, such as `probe bank`.

    Raises:
        Prob3rError: The header describes no such module, or the weights do not fit it or are not
            finite.
    """
    try:
        with torch.device("meta"):
            module = make()
        copies = {name: t.to(torch.float32, copy=True) for name, t in tensors.items()}
        module.load_state_dict(copies, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise Prob3rError(f"The {what} {path} does not fit its own header: {reason}.") from error
    if not all(tensor.isfinite().all() for tensor in module.state_dict().values()):
        raise Prob3rError(f"{path} has weights that are not finite; copy or train it again.")
    return module


def _open_own(path: Path) -> Checkpoint:
    weights, card = read_tensors(path)
    if card is not None:
        return Checkpoint(path, card, weights)
    with _told_of(path):
        for name, published in PUBLISHED.items():
            if (config := published.of_weights(weights)) is not None:
                return Checkpoint(path, _card(name, config), weights)
    raise Prob3rError(
        f"{path} has no prob3r header; "
        "if it came from a hub, give the folder that holds it and its config.json."
    )


def _open_hub(folder: Path) -> Checkpoint:
    listing, file = folder / "config.json", folder / WEIGHTS
    if not file.is_file() and (folder / INDEX).is_file():
        file = folder / INDEX
    if not (listing.is_file() and file.is_file()):
        raise Prob3rError(f"The folder {folder} must hold config.json and {WEIGHTS}.")
    try:
        weights = read_tensors(file)[0] if file.name == WEIGHTS else _read_shards(file)
    except Prob3rError:
        _listed(listing, None)  # report an unknown configuration before damaged weights
        raise
    return Checkpoint(file, _listed(listing, weights), weights)


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Return the memory-mapped tensors of all shards that an index lists.

    Raises:
        Prob3rError: The index is damaged, a shard is missing or damaged, or the shards do not have
            the tensors that the index lists.
    """
    places = _json_object(index.read_text(encoding="utf-8", errors="replace"), index).get(
        "weight_map"
    )
    if not (isinstance(places, dict) and places and all(map(_is_plain, places.values()))):
        raise Prob3rError(
            f"{index} must hold a weight_map that says in which file beside it each weight is."
        )
    shards = sorted({*places.values()})
    if gone := [name for name in shards if not (index.parent / name).is_file()]:
        raise Prob3rError(
            f"The folder {index.parent} lacks {len(gone)} of its {len(shards)} shards of weights: "
            f"{_few(gone)}; copy or download them."
        )
    weights: dict[str, Tensor] = {}
    for shard in shards:
        held = read_tensors(index.parent / shard)[0]
        listed = {name for name, place in places.items() if place == shard}
        if wrong := held.keys() ^ listed:
            raise Prob3rError(
                f"{index.parent / shard} does not hold what {INDEX} says; weights missing or left "
                f"over: {_few(wrong)}."
            )
        weights |= held
    return weights


def _is_plain(name: object) -> bool:
    """Return whether a value is the name of a file, without folders."""
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def _listed(listing: Path, weights: Mapping[str, Tensor] | None) -> dict[str, Any]:
    """Return the card from the `config.json` of a hub folder."""
    values = _json_object(listing.read_text(encoding="utf-8", errors="replace"), listing)
    keywords = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    for name, published in PUBLISHED.items():
        if (config := published.of_hub(keywords, weights, str(listing))) is not None:
            return _card(name, config)
    raise Prob3rError(f"{listing} is not of an architecture that is known ({_known()}).")


def _open_official(path: Path) -> Checkpoint:
    try:
        archive = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # the end of the file is damaged
        archive = False
    if not archive:
        size = path.stat().st_size
        raise Prob3rError(
            f"{path} is not a checkpoint, or only the beginning of one ({size} bytes); "
            "give a .safetensors of prob3r, an official .pth or .pt, or a hub folder."
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise Prob3rError(
            f"{path} is damaged, or holds objects other than tensors and an argparse.Namespace, "
            "which are not loaded because that can run code."
        ) from error
    with _told_of(path):
        for name, published in PUBLISHED.items():
            if (found := published.of_pickle(content)) is not None:
                return Checkpoint(path, _card(name, found[0]), found[1])
    raise Prob3rError(
        f"{path} is not laid out as an official checkpoint of an architecture that is known "
        f"({_known()})."
    )


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Put the name of a file before the message of every Prob3rError inside the block."""
    try:
        yield
    except Prob3rError as error:
        raise Prob3rError(f"{path}: {error}") from error


def _card(architecture: str, config: Any) -> dict[str, Any]:
    return {"architecture": architecture, "config": config.to_dict()}


def _known() -> str:
    return " or ".join(map(repr, ARCHITECTURES))


def config_of(card: Mapping[str, Any], path: Path | str) -> Any:
    """Return the configuration in a card.

    Raises:
        Prob3rError: There is none, or no model can be built from it. The message names `path`.
    """
    found = card.get("architecture")
    if not (isinstance(found, str) and found in ARCHITECTURES):
        raise Prob3rError(f"{path} holds the architecture {found!r}; it must be {_known()}.")
    values = card.get("config")
    if not isinstance(values, dict):
        raise Prob3rError(f"{path} has no configuration in its header.")
    try:
        return ARCHITECTURES[found].config_type.from_dict(values)
    except Prob3rError as error:
        raise Prob3rError(f"{path} has an unusable configuration: {error}") from error


def _check(path: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise unless the weights are the expected ones, of the expected shapes, and finite."""
    common = weights.keys() & expected
    faults = [
        f"{what}: {_few(names)}"
        for what, names in (
            ("missing", expected.keys() - weights),
            ("left over", weights.keys() - expected),
            ("of another shape", {n for n in common if weights[n].shape != expected[n].shape}),
            ("of another type", {n for n in common if weights[n].dtype not in _DTYPES}),
        )
        if names
    ]
    if faults:
        raise Prob3rError(f"{path} does not fit its configuration; weights {'; '.join(faults)}.")
    _check_finite(path, weights)


def _check_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    # A sum is not finite if a value is not finite; it needs one pass and no temporary tensor. It
    # can also overflow by itself.
    suspect = [name for name, tensor in weights.items() if not tensor.sum().isfinite()]
    broken = [name for name in suspect if not weights[name].isfinite().all()]
    if broken:
        raise Prob3rError(f"{path} has weights that are not finite: {_few(broken)}.")


def _json_object(text: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Prob3rError(f"{path} does not hold valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise Prob3rError(f"{path} must hold a JSON object, not a {type(value).__name__}.")
    return value


def _few(names: Iterable[str], most: int = 3) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
