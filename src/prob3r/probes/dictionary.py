"""Dictionaries: TopK sparse autoencoders of residual streams, and their files.

A token is centred and divided by the root of its stream's mean variance. The activations of its
atoms are the `active` largest products with the encoder's columns, if they are positive. The token
is decoded as the sum of the atoms, which are unit vectors, times their activations (Gao et al.,
Scaling and evaluating sparse autoencoders, 2024, arXiv 2406.04093).

A dictionary belongs to the residual sites of one pattern, such as `dec*.3.mlp`, which is the same
place in every view. Therefore an atom means the same in all views.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.io.files import user_cache
from prob3r.models import Model, filled, fingerprint, random, read_tensors, write_tensors
from prob3r.models.protocol import stack_of, trunk
from prob3r.models.registry import digest
from prob3r.models.sites import select
from prob3r.probes.coders import Basis, Coder, Directions, largest_positive
from prob3r.runs.edits import PATCHES, Recode

ATOMS_PER_CHANNEL = 4
ACTIVE = 16


@dataclass(frozen=True)
class DictionaryShape:
    """The shape of a dictionary, and what it belongs to.

    Attributes:
        sites: A pattern of residual sites of one width.
        width: The width of their streams.
        atoms: The number of atoms.
        active: The largest number of atoms that are active at one token.
        special: Whether it also reads special tokens, such as a camera token.
        backbone: The fingerprint of the model.
        random_seed: For a control, the seed of the model's random weights, else None.
        data: What it was trained on, in words.
    """

    sites: str
    width: int
    atoms: int
    active: int = ACTIVE
    special: bool = False
    backbone: str = ""
    random_seed: int | None = None
    data: str = ""


class Dictionary(Coder):
    """A TopK sparse autoencoder.

    Args:
        shape: Its shape. All weights are zero; see `drawn`.

    Raises:
        Prob3rError: There are fewer atoms than active ones, or none.
    """

    def __init__(self, shape: DictionaryShape):
        super().__init__()
        if not 0 < shape.active <= shape.atoms:
            raise Prob3rError(
                f"active is {shape.active}; it must be from 1 to the number of atoms, "
                f"{shape.atoms}."
            )
        self.shape, self.units = shape, shape.atoms
        self.directions = nn.Parameter(torch.zeros(shape.atoms, shape.width))
        self.encoder = nn.Parameter(torch.zeros(shape.width, shape.atoms))
        self.bias = nn.Parameter(torch.zeros(shape.width))
        self.register_buffer("mean", torch.zeros(shape.width))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("principal", torch.eye(shape.width))
        self.register_buffer("variances", torch.ones(shape.width))
        self.mean: Tensor
        self.spread: Tensor
        self.principal: Tensor
        self.variances: Tensor

    @classmethod
    def drawn(cls, shape: DictionaryShape, seed: int = 0) -> "Dictionary":
        """Return a dictionary with random weights, for training to start from.

        The encoder is the transpose of the atoms, so that few atoms are never active.
        """
        made = cls(shape)
        generator = torch.Generator().manual_seed(seed)
        atoms = F.normalize(torch.randn(shape.atoms, shape.width, generator=generator), dim=-1)
        made.directions.data.copy_(atoms)
        made.encoder.data.copy_(atoms.T)
        return made

    def fit_moments(self, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]) -> None:
        """Set the mean, the spread and the principal directions of the stream."""
        values, vectors = torch.linalg.eigh(covariance.double())
        self.mean.copy_(mean)
        self.spread.copy_((values.clamp(min=0).mean() + 1e-12).sqrt())
        self.principal.copy_(vectors.T.flip(0))
        self.variances.copy_(values.flip(0))

    @property
    def atoms(self) -> Float[Tensor, "m d"]:
        """The atoms as unit vectors."""
        return F.normalize(self.directions, dim=-1)

    def standard(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return tokens centred, and divided by the spread of the stream."""
        return (tokens - self.mean) / self.spread

    def products(self, standard: Float[Tensor, "*b d"]) -> Float[Tensor, "*b m"]:
        """Return the products with the encoder's columns, before the choice of the largest."""
        return (standard - self.bias) @ self.encoder

    def encode(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b m"]:
        """Return the activation of every atom, in units of the stream's spread."""
        return largest_positive(self.products(self.standard(tokens)), self.shape.active)

    def decode(self, codes: Float[Tensor, "*b m"]) -> Float[Tensor, "*b d"]:
        """Return the tokens that are decoded from activations."""
        return (codes @ self.atoms + self.bias) * self.spread + self.mean

    def splice(self) -> Recode:
        """Return the edit that replaces the stream by its reconstruction."""
        return Recode(self.shape.sites, self.reconstruct, patches=self.tokens)

    def scale(self, factors: Mapping[int, float]) -> Recode:
        """Return the edit that multiplies the activations of some atoms by factors.

        The part of a token that the dictionary does not reconstruct is kept. A factor of 1
        therefore changes nothing. A factor of 0 switches an atom off.

        Raises:
            Prob3rError: There is no such atom.
        """
        if wrong := [atom for atom in factors if not 0 <= atom < self.units]:
            raise Prob3rError(
                f"There is no atom {wrong[0]}; atoms count from 0 to {self.units - 1}."
            )
        chosen, by = list(factors), [factor - 1 for factor in factors.values()]

        def scaled(tokens: Tensor) -> Tensor:
            codes = self.encode(tokens.float())[..., chosen] * torch.tensor(by).to(self.mean)
            return tokens + (codes @ self.atoms[chosen] * self.spread).to(tokens)

        return Recode(self.shape.sites, scaled, patches=self.tokens)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the shape and the weights."""
        return digest(asdict(self.shape), self.state_dict())

    @property
    def tokens(self) -> Any:
        """The selection of the tokens that it reads, for edits."""
        return None if self.shape.special else PATCHES

    def controls(self) -> dict[str, Coder]:
        """Return the coders that the dictionary is compared with at its own sites, by name.

        `first` and `largest` are principal directions with as many active coefficients: the first
        ones, or the largest of each token among all directions. `random` are as many random
        directions as there are atoms. `principal` are all principal directions, and `neurons` are
        the channels of the stream. These two reconstruct tokens without error.
        """
        active, width = self.shape.active, self.shape.width
        return {
            FIRST: Basis(self.mean, self.principal, active),
            LARGEST: Basis(self.mean, self.principal, active, largest=True),
            RANDOM: Directions(self.mean, self.units, active),
            PRINCIPAL: Basis(self.mean, self.principal),
            NEURONS: Basis(self.mean, torch.eye(width).to(self.mean)),
        }

    def check(self, model: Model) -> None:
        """Raise Prob3rError unless this is a dictionary of the model."""
        weights = fingerprint(model)
        if self.shape.backbone not in ("", weights):
            raise Prob3rError(
                f"This dictionary was trained on the model {self.shape.backbone}, but this model "
                f"is {weights}; give the dictionary of this model."
            )

    def backbone_of(self, model: Model) -> Model:
        """Return the model that it reads.

        It is the given model or, for a control, the same architecture with random weights.

        Raises:
            Prob3rError: It was trained on another model.
        """
        if self.shape.random_seed is not None:
            model = random(model, self.shape.random_seed).to(self.mean.device)
        self.check(model)
        return model

    def save(self, path: Path) -> None:
        """Write the dictionary as one `.safetensors` file, whole or not at all.

        Raises:
            Prob3rError: The file cannot be written.
        """
        tensors = {name: t.detach().cpu() for name, t in self.state_dict().items()}
        tensors["directions"] = self.atoms.detach().cpu()
        write_tensors(path, tensors, {"dictionary": asdict(self.shape)})

    @classmethod
    def load(cls, path: Path) -> "Dictionary":
        """Return the dictionary in a file.

        Raises:
            Prob3rError: The file is missing, damaged, or holds no dictionary.
        """
        tensors, header = read_tensors(path)
        about = (header or {}).get("dictionary")
        if not isinstance(about, dict):
            raise Prob3rError(
                f"{path} holds no dictionary; train one with `prob3r dictionary train`."
            )
        found = filled(lambda: cls(DictionaryShape(**about)), tensors, path, "dictionary")
        return found.requires_grad_(False)


FIRST, LARGEST, RANDOM = "first", "largest", "random"
PRINCIPAL, NEURONS = "principal", "neurons"


def sites_of(model: Model, pattern: str, views: int = 2) -> list[str]:
    """Return the residual sites of a pattern.

    Raises:
        Prob3rError: None matches, or their widths differ.
    """
    sites = select(pattern, model.sites(views))
    widths = {stack_of(model, site).width for site in sites}
    if len(widths) > 1:
        raise Prob3rError(
            f"The sites '{pattern}' have streams of {len(widths)} widths; name sites of one stack."
        )
    return sites


def folder_of(model: str) -> Path:
    """Return the folder of the user's cache with the dictionaries of a model, by fingerprint."""
    return user_cache("dictionaries") / model


def file_name(shape: DictionaryShape) -> str:
    """Return the name of the file of a dictionary in its folder."""
    kind = "dictionary" if shape.random_seed is None else "random"
    safe = shape.sites.replace("*", "_").replace("?", "_")
    return f"{kind}-{safe}.safetensors"


def dictionaries_in(folder: Path) -> list[Dictionary]:
    """Return the dictionaries in a folder, in the order of their files' names."""
    return [Dictionary.load(path) for path in sorted(folder.glob("[!.]*.safetensors"))]


def usual_sites(model: Model) -> list[str]:
    """Return the patterns of the trunk's sites after a third, two thirds and all of its blocks."""
    stack = trunk(model)
    ends = [site for site in stack.ends(2) if site.block is not None]
    chosen = sorted({max(0, len(ends) * share // 3 - 1) for share in (1, 2, 3)})
    return [f"{stack.name}*.{ends[i].block}.{ends[i].sublayer}" for i in chosen]
