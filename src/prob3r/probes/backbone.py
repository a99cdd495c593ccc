"""The models that banks and lenses belong to."""

from prob3r.errors import Prob3rError
from prob3r.models import Model, fingerprint, random
from prob3r.probes.reader import SiteReader


def check_backbone(bank: SiteReader, model: Model) -> str:
    """Return the fingerprint of a model after checking that a bank belongs to it.

    Raises:
        Prob3rError: The bank was trained on another model.
    """
    weights = fingerprint(model)
    if bank.backbone not in ("", weights):  # an untrained bank has none
        raise Prob3rError(
            f"These probes were trained on the model {bank.backbone}, but this model is "
            f"{weights}; give the probes of this model."
        )
    return weights


def backbone_of(bank: SiteReader, model: Model) -> Model:
    """Return the model that a bank reads.

    It is the given model or, for a control, the same architecture with random weights.

    Raises:
        Prob3rError: The bank was trained on another model.
    """
    if bank.random_seed is not None:
        device = next(model.parameters()).device
        model = random(model, bank.random_seed).to(device)
    check_backbone(bank, model)
    return model
