"""What a probe bank and a lens have in common: they read pointmaps off residual sites."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.geometry import unpatchify
from prob3r.io.hub import upload
from prob3r.models.heads import decode_points
from prob3r.models.sites import Site
from prob3r.runs.trace import Record

Reader = TypeVar("Reader", bound="SiteReader")


class Decoded(NamedTuple):
    """What is read off a site.

    Attributes:
        points: Pointmap in camera 1's frame. A trained reader's unit is the mean distance of the
            pair's true points to camera 1.
        confidence: Greater than 1.
    """

    points: Float[Tensor, "b h w 3"]
    confidence: Float[Tensor, "b h w"]


class SiteReader(nn.Module, ABC):
    """Reads a pointmap off each of several residual sites, one patch at a time.

    Every tensor that reading takes is stacked, with a row for each site, so that sites can be read
    together or apart, and each is trained as if it were alone.

    Attributes:
        kind: What sort of reader it is.
        sites: Names of the sites.
        stream: Width of their residual stream.
        patch: Side of a patch, in pixels.
        backbone: Fingerprint of the model whose sites these are.
        random_seed: The seed of that model's weights where it is a control with random ones, else
            None.

    Raises:
        Prob3rError: A site is not a residual site, or there is none.
    """

    random_seed: int | None = None

    def __init__(self, sites: Sequence[str], stream: int, patch: int, backbone: str):
        super().__init__()
        if not sites or any(Site.parse(site).reading for site in sites):
            raise Prob3rError("A probe bank needs at least one site, and residual sites only.")
        self.sites, self.stream, self.patch = tuple(sites), stream, patch
        self.backbone = backbone

    @property
    @abstractmethod
    def kind(self) -> str:
        """What sort of reader it is."""

    @abstractmethod
    def header(self) -> dict[str, Any]:
        """Return what a file must hold beside the weights to build this reader again."""

    def stacks(self) -> list[Tensor]:
        """Return the tensors that reading takes, each with a row for every site."""
        return list(self.parameters())

    @abstractmethod
    def read(
        self, rows: Sequence[Tensor], streams: Float[Tensor, "s t d"]
    ) -> Float[Tensor, "s t p2 4"]:
        """Return the raw output for each pixel of each patch, given some sites' rows of `stacks`.

        The four channels lie apart in memory, so that work on each of them runs over neighbours.
        """

    def forward(
        self, streams: Float[Tensor, "s t d"], rows: slice = slice(None)
    ) -> Float[Tensor, "s t p2 4"]:
        """Return the raw output for each pixel of each patch.

        Args:
            streams: Patches of every site, or of those of `rows`.
            rows: Which sites these are, by their place in `sites`.
        """
        return self.read([stack[rows] for stack in self.stacks()], streams)

    def probe_for(self, site: str) -> str:
        """Return the site whose probe reads a site: its own, or view 2's for a further view.

        Models of many views tell the reference, view 1, from the others, and treat the others
        alike. So a bank that was fitted on pairs reads `dec5.3.mlp` with the probe of `dec2.3.mlp`,
        unless it has a probe of view 5's own.

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

    def decode(self, record: Record) -> Decoded:
        """Return the pointmap and confidence that are read off a record.

        Raises:
            Prob3rError: No probe reads the record's site (see `probe_for`), or the widths differ.
        """
        site = self.probe_for(record.site)
        if record.shape[-1] != self.stream:
            raise Prob3rError(
                f"'{record.site}' is {record.shape[-1]} wide here, and this bank's probes read "
                f"{self.stream}; it was trained on another model."
            )
        row = self.sites.index(site)
        rows, columns = record.grid
        patches = record.patches  # special tokens have no pixels
        b, n, d = patches.shape
        with torch.no_grad():
            raw = self(patches.float().reshape(1, b * n, d), slice(row, row + 1))
        pixels = unpatchify(raw[0].unflatten(0, (b, n)), rows * self.patch, columns * self.patch)
        return Decoded(*decode_points(pixels))

    def save_pretrained(
        self, folder: str | Path, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Write `probes.safetensors` and `probes.json` into a folder, which is made if need be.

        Args:
            folder: Where to.
            metadata: What else the files shall say of the probes; must fit JSON.

        Raises:
            Prob3rError: The folder cannot be written to.
        """
        from prob3r.probes.files import save_folder  # which knows every reader

        save_folder(self, Path(folder), metadata)

    @classmethod
    def from_pretrained(
        cls: type[Reader],
        source: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
    ) -> Reader:
        """Return what `save_pretrained` wrote or `push_to_hub` put on the hub, float32.

        Args:
            source: A folder, or a hub id, `owner/name` or `owner/name@revision`.
            revision: A branch, a tag or a commit of the repository.
            token: For the hub, instead of the one that is logged in with.

        Raises:
            Prob3rError: There is no such thing, it cannot be used or fetched, or is of another sort
                than this class.
        """
        from prob3r.probes.files import load_probes

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
        """Put what `save_pretrained` writes on the hub and return the URL of the commit.

        Args:
            repo_id: `owner/name` of a model repository, which is made if need be.
            metadata: As for `save_pretrained`.
            private: Whether a new repository is; None leaves it to the owner's settings.
            commit_message: What the commit says.
            token: Instead of the one that is logged in with.

        Raises:
            Prob3rError: The name is not `owner/name`, or the hub refuses or cannot be reached.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, metadata)
            return upload(
                Path(folder), repo_id, ["*"], message=commit_message, private=private, token=token
            )
