"""Probes fitted in closed form, a norm and an affine map for each site, and their fit's record."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.models.sites import Site
from prob3r.probes.reader import SiteReader
from prob3r.probes.scenes import title_of
from prob3r.probes.targets import PAIR, POINTMAP, TARGETS, TRUTH, WHOSE_WORDS, Target, Whose

FEATURES = 768
"""The number of random features of a bank of the kind `features`."""

_EPS = 1e-6  # in the norm, as in the norms before the heads of CroCo and DINOv2


@dataclass(frozen=True)
class Fit:
    """What a bank was fitted on, and how well it does on scenes that were held out.

    Attributes:
        whose: `truth`, or `own` for the model's own final output.
        data: The name of the scenes.
        scenes: The number of scenes it was fitted on.
        held_out: The number of further scenes, which chose the ridges.
        views: The number of views of each scene.
        sample: How the scenes were chosen, in words.
        digest: The hash of all images, 16 hexadecimal digits.
        seed: The seed of the sample.
        precision: The precision that the model ran in.
        ridges: The regulariser of each site, as a share of the mean diagonal of the Gram matrix.
        errors: The mean error of each site on the held-out scenes, by the first of the target's
            `measures`. For pointmaps the unit is the mean distance of a scene's points to camera 1.
        target: The target's name.
        token: For a target of pairs, the special token that is read. Empty means the mean of the
            patches.
        average: The prediction without any input: the mean of the goals that the last site's probe
            was fitted to. Empty in files of earlier versions.
    """

    whose: Whose
    data: str
    scenes: int
    held_out: int
    views: int
    sample: str
    digest: str
    seed: int
    precision: str
    ridges: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    target: str = POINTMAP.name
    token: str = ""
    average: tuple[float, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Fit":
        """Return the fit that `asdict` turned into these values.

        Raises:
            KeyError: A value is missing.
            TypeError: The values do not describe a fit.
        """
        if "whose" not in values:  # files of earlier versions knew one target
            values = {**values, "whose": values["target"], "target": POINTMAP.name}
        values = {"average": (), "token": "", **values}
        found = {field.name: values[field.name] for field in fields(cls)}
        if found["whose"] not in WHOSE_WORDS or found["target"] not in TARGETS:
            raise TypeError(f"the target is {found['target']!r} of {found['whose']!r}")
        return cls(**found | {name: tuple(map(float, found[name])) for name in _LISTS})

    @property
    def words(self) -> str:
        """What the bank was fitted to and on, in words."""
        on = f"{self.scenes} scenes of {title_of(self.data)}"
        ran = "" if self.precision == "float32" else f" in {self.precision}"
        read = f", read off the token '{self.token}'" if self.token else ""
        of = "" if self.target == POINTMAP.name else f" ({self.target}{read})"
        return f"fitted to {WHOSE_WORDS[self.whose]}{of} on {on}{ran}"


_LISTS = ("ridges", "errors", "average")


class RidgeBank(SiteReader, reader="ridge"):
    """Probes of several residual sites of one width, fitted in closed form.

    A probe is a norm without weights and one affine map, patch by patch. With random features the
    map also reads random projections of the patch after a GELU (Rahimi and Recht, Random features
    for large-scale kernel machines, 2007). All sites share the projections.

    Args:
        sites: Names of the sites, one probe for each.
        stream: Width of their residual stream.
        patch: Side of a patch, in pixels.
        backbone: Fingerprint of the model whose sites these are.
        features: The number of random features.
        seed: The seed of the random features.
        fit: What the bank was fitted on.
        target: What its probes predict.
        token: For a target of pairs, the special token to read. Empty means the mean of the
            patches.
    """

    def __init__(
        self,
        sites: Sequence[str],
        stream: int,
        patch: int,
        backbone: str = "",
        features: int = 0,
        seed: int = 0,
        fit: Fit | None = None,
        target: Target = POINTMAP,
        token: str = "",
    ):
        super().__init__(sites, stream, patch, backbone, target)
        self.token = token
        self.features, self.seed, self.fit = features, seed, fit
        s, outputs = len(self.sites), target.columns((TRUTH,), patch).width
        self.weight = nn.Parameter(torch.zeros(s, stream + features, outputs))
        self.bias = nn.Parameter(torch.zeros(s, 1, outputs))
        # Kept in the file, so that no other generator can change what a bank reads.
        self.register_buffer("projection", torch.zeros(stream, features))
        self.register_buffer("offset", torch.zeros(features))
        self.projection: Tensor
        self.offset: Tensor

    def draw_features(self) -> None:
        """Draw the projections of the random features."""
        generator = torch.Generator().manual_seed(self.seed)
        for buffer, size in ((self.projection, self.stream**-0.5), (self.offset, 1.0)):
            buffer.copy_(size * torch.randn(buffer.shape, generator=generator))

    @property
    def kind(self) -> str:
        """`ridge` or `features`, or for a control `random` or `encoder`."""
        if self.random_seed is not None:
            return "random"
        if Site.parse(self.sites[0]).stack == "enc":
            return "encoder"
        return "features" if self.features else "ridge"

    @property
    def inputs_width(self) -> int:
        """The number of inputs of the affine maps."""
        return self.stream + self.features

    @property
    def origin(self) -> str:
        """What it was fitted to and on, in words."""
        return "" if self.fit is None else self.fit.words

    def inputs(self, streams: Float[Tensor, "*b d"]) -> Float[Tensor, "*b i"]:
        """Return the inputs of the affine maps; for a target of pairs, the streams as they are."""
        if self.target.level == PAIR:
            return streams
        normed = F.layer_norm(streams, streams.shape[-1:], eps=_EPS)
        if not self.features:
            return normed
        return torch.cat((normed, F.gelu(normed @ self.projection + self.offset)), -1)

    def read(
        self, rows: Sequence[Tensor], streams: Float[Tensor, "s t d"]
    ) -> Float[Tensor, "s t p2 c"]:
        """Return the raw output for each pixel of each patch; see `SiteReader.read`."""
        weight, bias = rows
        channels = self.target.channels + self.target.shared
        return (self.inputs(streams) @ weight + bias).unflatten(-1, (channels, -1)).mT

    @classmethod
    def from_header(cls, description: Mapping[str, Any]) -> "RidgeBank":
        """Return the bank that a header describes, without its weights."""
        names = "sites", "stream", "patch", "backbone", "features", "seed"
        fit = Fit.from_dict(description["fit"]) if "fit" in description else None
        target = description.get("target", POINTMAP.name)
        if target not in TARGETS:
            raise TypeError(f"there is no target {target!r}")
        given = {name: description[name] for name in names}
        given["token"] = str(description.get("token", ""))
        return cls(fit=fit, target=TARGETS[target], **given)

    def header(self) -> dict[str, Any]:
        """Return what a file must hold besides the weights to build this bank again."""
        described = {
            "reader": "ridge",
            "sites": list(self.sites),
            "backbone": self.backbone,
            "stream": self.stream,
            "patch": self.patch,
            "features": self.features,
            "seed": self.seed,
            "target": self.target.name,
        }
        if self.token:
            described["token"] = self.token
        if self.random_seed is not None:
            described["random_seed"] = self.random_seed
        return described | ({} if self.fit is None else {"fit": asdict(self.fit)})
