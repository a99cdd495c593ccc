"""The base class of probe banks and lenses: they decode targets from sites, and have files."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.geometry import unpatchify
from prob3r.io.files import make_folder, writing_to
from prob3r.io.hub import upload
from prob3r.models import filled, read_tensors, write_tensors
from prob3r.models.heads import decode_points
from prob3r.models.sites import Site
from prob3r.probes.files import CARD, WEIGHTS, find_probes
from prob3r.probes.targets import PAIR, PIXEL, POINTMAP, Target
from prob3r.runs.trace import Record

Reader = TypeVar("Reader", bound="SiteReader")

BANK = "bank"
"""The reader of files whose header names none."""


class Decoded(NamedTuple):
    """The pointmap and the confidence that are decoded from a site.

    Attributes:
        points: Pointmap in camera 1's frame. A trained reader's unit is the mean distance of the
            pair's true points to camera 1.
        confidence: Greater than 1.
    """

    points: Float[Tensor, "b h w 3"]
    confidence: Float[Tensor, "b h w"]


class SiteReader(nn.Module, ABC):
    """Decodes a target from each of several residual sites, one patch at a time.

    Trained readers decode a pointmap. A target of pairs is decoded from the mean of a view's
    patches, or from a special token.

    Every tensor that reading needs is stacked, with a row for each site. Sites can therefore be
    read together or one by one, and each probe is trained as if it were alone.

    Attributes:
        registry: Every class of readers that files hold, by its name in their headers.
        kind: The kind of reader, such as `mlp`.
        sites: Names of the sites.
        stream: Width of their residual stream.
        patch: Side of a patch, in pixels.
        backbone: Fingerprint of the model whose sites these are.
        target: What it predicts.
        token: For a target of pairs, the special token that is read. Empty means the mean of the
            patches.
        random_seed: For a control, the seed of the model's random weights, else None.

    Raises:
        Prob3rError: A site is not a residual site, or there is none.
    """

    registry: ClassVar[dict[str, type["SiteReader"]]] = {}

    random_seed: int | None = None

    token: str = ""

    def __init_subclass__(cls, reader: str = "", **others: Any) -> None:
        """Register a class by its name in the headers of its files, if it has one."""
        super().__init_subclass__(**others)
        if reader:
            SiteReader.registry[reader] = cls

    def __init__(
        self,
        sites: Sequence[str],
        stream: int,
        patch: int,
        backbone: str,
        target: Target = POINTMAP,
    ):
        super().__init__()
        if not sites or any(Site.parse(site).reading for site in sites):
            raise Prob3rError("A probe bank needs at least one site, and residual sites only.")
        self.sites, self.stream, self.patch = tuple(sites), stream, patch
        self.backbone, self.target = backbone, target

    @property
    @abstractmethod
    def kind(self) -> str:
        """The kind of reader, such as `mlp`."""

    @property
    def origin(self) -> str:
        """What it was fitted to and on, in words; empty if that is not known."""
        return ""

    @abstractmethod
    def header(self) -> dict[str, Any]:
        """Return what a file must hold besides the weights to build this reader again."""

    @classmethod
    @abstractmethod
    def from_header(cls, description: Mapping[str, Any]) -> "SiteReader":
        """Return the reader that a header describes, without its weights.

        Raises:
            KeyError: The header lacks an entry.
            TypeError: An entry has the wrong type.
        """

    def stacks(self) -> list[Tensor]:
        """Return the tensors that reading needs, each with a row for every site."""
        return list(self.parameters())

    @abstractmethod
    def read(
        self, rows: Sequence[Tensor], streams: Float[Tensor, "s t d"]
    ) -> Float[Tensor, "s t p2 c"]:
        """Return the raw output for each pixel of each patch, given some sites' rows of `stacks`.

        The values of one channel lie together in memory, so that work on one channel is fast.
        """

    def forward(
        self, streams: Float[Tensor, "s t d"], rows: slice = slice(None)
    ) -> Float[Tensor, "s t p2 c"]:
        """Return the raw output for each pixel of each patch.

        Args:
            streams: Patches of every site, or of the sites in `rows`.
            rows: Which sites these are, by their place in `sites`.
        """
        return self.read([stack[rows] for stack in self.stacks()], streams)

    def probe_for(self, site: str) -> str:
        """Return the site whose probe reads a site: its own, or view 2's for a further view.

        Models of many views tell the reference, view 1, from the others, and treat the others
        alike. A bank that was fitted on pairs therefore reads `dec5.3.mlp` with the probe of
        `dec2.3.mlp`, unless it has a probe for view 5.

        Raises:
            Prob3rError: There is no such probe.
        """
        if site in self.sites:
            return site
        place = Site.parse(site)
        if place.view > 2 and (twin := str(place.of(2))) in self.sites:
            return twin
        raise Prob3rError(f"This bank has no probe for '{site}'; see `bank.sites`.")

    def reads(self, site: str) -> bool:
        """Return whether a probe reads a site; see `probe_for`."""
        place = Site.parse(site)
        return not {site, str(place.of(min(place.view, 2)))}.isdisjoint(self.sites)

    def streams(self, record: Record) -> Float[Tensor, "b n d"]:
        """Return what probes read of a record.

        These are its patches or, for a target of pairs, one special token or the patches' mean.
        """
        patches = record.patches  # special tokens have no pixels
        if self.target.level != PAIR:
            return patches
        return record.token(self.token)[:, None] if self.token else patches.float().mean(1, True)

    def raw(self, record: Record) -> Float[Tensor, "b n p2 c"]:
        """Return the raw output for each pixel of each patch of a record.

        A target of patches has one pixel here, and a target of pairs one patch.

        Raises:
            Prob3rError: No probe reads the record's site (see `probe_for`), or the widths differ.
        """
        site = self.probe_for(record.site)
        if record.shape[-1] != self.stream:
            raise Prob3rError(
                f"'{record.site}' has a width of {record.shape[-1]} here, but this bank's probes "
                f"read a width of {self.stream}; it was trained on another model."
            )
        row, streams = self.sites.index(site), self.streams(record)
        b, n, d = streams.shape
        with torch.no_grad():
            raw = self(streams.float().reshape(1, b * n, d), slice(row, row + 1))
        return raw[0].unflatten(0, (b, n))

    def tell(self, record: Record) -> Tensor:
        """Return the target that is decoded from a record, in the form of `Target.decode`.

        A target of pixels is a map `(b, h, w, ...)`, one of patches `(b, n, ...)`, and one of pairs
        `(b, ...)`.

        Raises:
            Prob3rError: See `raw`.
        """
        raw = self.raw(record)
        if self.target.level == PIXEL:
            rows, columns = record.grid
            return self.target.decode(unpatchify(raw, rows * self.patch, columns * self.patch))
        return self.target.decode(raw[:, 0, 0] if self.target.level == PAIR else raw[:, :, 0])

    def decode(self, record: Record) -> Decoded:
        """Return the pointmap and confidence that are decoded from a record.

        Raises:
            Prob3rError: These probes predict another target. Also the errors of `raw`.
        """
        if self.target.name != POINTMAP.name:
            raise Prob3rError(
                f"These probes read the target '{self.target.name}', but a pointmap is needed "
                "here; give probes of pointmaps."
            )
        rows, columns = record.grid
        pixels = unpatchify(self.raw(record), rows * self.patch, columns * self.patch)
        return Decoded(*decode_points(pixels))

    def save_pretrained(
        self, folder: str | Path, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Write `probes.safetensors` and `probes.json` into a folder.

        Args:
            folder: The folder. It is created if it does not exist.
            metadata: Further entries of the files' headers. JSON must be able to hold them.

        Raises:
            Prob3rError: The folder cannot be written to.
        """
        save_folder(self, Path(folder), metadata)

    @classmethod
    def from_pretrained(
        cls: type[Reader],
        source: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
    ) -> Reader:
        """Return the reader that `save_pretrained` wrote or `push_to_hub` uploaded, in float32.

        Args:
            source: A folder, or a hub id, `owner/name` or `owner/name@revision`.
            revision: A branch, a tag or a commit of the repository.
            token: An access token of the hub. The default is that of the login.

        Raises:
            Prob3rError: The source does not exist, cannot be used or downloaded, or holds a reader
                of another class.
        """
        reader = load_probes(source, revision=revision, token=token)
        if not isinstance(reader, cls):
            raise Prob3rError(f"'{source}' holds a {type(reader).__name__}, not a {cls.__name__}.")
        return reader

    def push_to_hub(
        self,
        repo_id: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        private: bool | None = None,
        commit_message: str = "Upload probes with prob3r",
        token: str | None = None,
    ) -> str:
        """Upload the files of `save_pretrained` to the hub and return the URL of the commit.

        Args:
            repo_id: `owner/name` of a model repository. It is created if it does not exist.
            metadata: As for `save_pretrained`.
            private: Whether a new repository is private. None uses the owner's settings.
            commit_message: The message of the commit.
            token: An access token of the hub. The default is that of the login.

        Raises:
            Prob3rError: The name is not `owner/name`, or the hub refuses or cannot be reached.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, metadata)
            return upload(
                Path(folder), repo_id, ["*"], message=commit_message, private=private, token=token
            )


def save_probes(
    bank: SiteReader,
    path: Path,
    metadata: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a bank, or a lens, as one `.safetensors` file, which appears whole or not at all.

    Raises:
        Prob3rError: The file cannot be written.
    """
    tensors = {name: t.detach().to(dtype) for name, t in bank.state_dict().items()}
    write_tensors(path, tensors, {**(metadata or {}), "bank": bank.header()})


def save_folder(bank: SiteReader, folder: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a bank, or a lens, as a folder with its weights and a JSON file of their header.

    Raises:
        Prob3rError: The folder cannot be written to.
    """
    make_folder(folder)
    save_probes(bank, folder / WEIGHTS, metadata)
    header = {**(metadata or {}), "bank": bank.header()}
    with writing_to(folder / CARD) as path:
        path.write_text(json.dumps(header, indent=1, sort_keys=True), encoding="utf-8")


def load_probes(
    source: str | Path,
    kind: str = "mlp",
    *,
    revision: str | None = None,
    token: str | None = None,
) -> SiteReader:
    """Return a probe bank, or a lens, in float32.

    Args:
        source: The name of a shipped model; the path of a bank's `.safetensors`, or of its folder;
            or a hub id, `owner/name` or `owner/name@revision`. If a path of this name exists, it is
            not taken as a hub id.
        kind: The kind of a shipped model's bank: one of `prob3r.probes.files.KINDS`.
        revision: The revision of a bank on the hub.
        token: An access token of the hub. The default is that of the login.

    Raises:
        Prob3rError: There is no such bank, or its file cannot be used or fetched.
    """
    return _read(find_probes(source, kind, revision=revision, token=token))


def _read(path: Path) -> SiteReader:
    tensors, header = read_tensors(path)
    description = (header or {}).get("bank")
    if not isinstance(description, dict):
        raise Prob3rError(f"{path} holds no probe bank.")
    return filled(lambda: _empty(description, len(tensors)), tensors, path, "probe bank")


def _empty(description: Mapping[str, Any], tensors: int) -> SiteReader:
    """Return the reader that a header describes, without its weights.

    Args:
        description: The header.
        tensors: The number of tensors in the file.

    Raises:
        ValueError: The header cannot belong to this file, or names an unknown reader.
    """
    # Every layer has weights. A damaged depth must not make this build layers for hours.
    if description.get("depth", 0) > tensors:
        raise ValueError("it has fewer layers than it says")
    name = description.get("reader", BANK)
    if name not in SiteReader.registry:
        raise ValueError(f"there is no reader '{name}'")
    reader = SiteReader.registry[name].from_header(description)
    reader.random_seed = _seed(description)
    return reader


def _seed(description: Mapping[str, Any]) -> int | None:
    """Return the seed of the random weights of a control's backbone."""
    seed = description.get("random_seed")
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**63):
        raise TypeError(f"random_seed is {seed!r}; it must be a whole number")
    return seed
