"""What a study tests: a model with its probes and its controls."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prob3r.errors import Prob3rError
from prob3r.models import Model
from prob3r.probes import SiteReader
from prob3r.scenes.views import Pair

MODEL, POSITIVE = "model", "mini-vggt"
"""Sources of rows: the model under test, or the positive control."""

OWN_PROBES = ("mlp", "features", "ridge", "linear")
"""Kinds of probes of a model itself, in the order of preference of studies."""

CONTROLS = ("random", "encoder")
"""Kinds of probes that are controls."""


class LackingError(Prob3rError):
    """A model lacks what a study needs."""


@dataclass(frozen=True)
class ModelUnderTest:
    """The model that a study tests, with its probes and its controls.

    Attributes:
        model: The model.
        name: The model's name.
        banks: Probes by kind: probes of the model, such as `ridge`, and the controls `random` and
            `encoder`.
        untrained: The backbone with random weights that the `random` probes belong to; None without
            such probes.
        references: Other models to compare with, by name: `mini-vggt`, the positive control that
            carries an explicit pose; variants; and checkpoints of the model's own training.
    """

    model: Model
    name: str
    banks: Mapping[str, SiteReader] = field(default_factory=dict)
    untrained: Model | None = None
    references: Mapping[str, Model] = field(default_factory=dict)

    def bank(self, *kinds: str) -> SiteReader:
        """Return the probes of the first kind that exists; the default kinds are `OWN_PROBES`.

        Raises:
            LackingError: There are no probes of any of these kinds.
        """
        found = [self.banks[kind] for kind in kinds or OWN_PROBES if kind in self.banks]
        if not found:
            kind = kinds[0] if kinds else "ridge"
            raise LackingError(
                f"This study needs '{kind}' probes of {self.name}; fit them with `prob3r probes "
                f"fit --kind {kind}`."
            )
        return found[0]

    @property
    def positive(self) -> Model | None:
        """The positive control `mini-vggt`, which can be the model under test itself."""
        return self.model if self.name == POSITIVE else self.references.get(POSITIVE)

    @property
    def origins(self) -> dict[str, str]:
        """The target and the data of the fit of each kind of probes, if they are known."""
        return {kind: bank.origin for kind, bank in self.banks.items() if bank.origin}


def as_shown(source: str, model: Model, pair: Pair) -> Pair:
    """Return pairs as a source's model sees them: the positive control sees its own size."""
    return pair.resized_for(model) if source == POSITIVE else pair
