"""How a backbone does on held-out rooms while it trains."""

import torch
from torch import Tensor

from prob3r.geometry import PoseAndShape, median
from prob3r.models import Model
from prob3r.rooms import Rooms
from prob3r.scenes.shuffled import shuffled
from prob3r.scenes.views import Pair


class Validation:
    """Held-out rooms, and what is watched on them.

    The shuffled control is watched from the start: a model that ignores view 1 scores alike on
    true and on shuffled pairs, and no training loss shows it.
    """

    def __init__(self, size: int, pairs: int, device: torch.device | str, batch: int = 64):
        rooms = Rooms("validation", size=(size, size), device=device, compile=False)
        self.batches = [
            rooms.batch(range(start, min(start + batch, pairs))) for start in range(0, pairs, batch)
        ]

    def measure(self, model: Model) -> dict[str, float]:
        """Return medians over pairs of view 2's errors, and the rotation error of the control."""
        # Compiled blocks would be compiled anew for this batch, for seconds of eager work.
        with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
            return self._measure(model)

    def _measure(self, model: Model) -> dict[str, float]:
        true = [_errors(model, pair.view1.image, pair) for pair in self.batches]
        errors = PoseAndShape(*(torch.cat(column) for column in zip(*true, strict=True)))
        others = [(shuffled(pair).pair.view1.image, pair) for pair in self.batches]
        control = torch.cat([_errors(model, *other).rotation_error for other in others])
        return {
            "pointmap_error1": median(errors.pointmap_error1).item(),
            "pointmap_error2": median(errors.pointmap_error2).item(),
            "rotation_error": median(errors.rotation_error).item(),
            "translation_error": median(errors.translation_error).item(),
            "shuffled_rotation_error": median(control).item(),
        }


def _errors(model: Model, images1: Tensor, pair: Pair) -> PoseAndShape:
    """Return all errors of a batch, with whatever is given in place of its view 1."""
    output = model(images1, pair.view2.image)
    return pair.errors_of(output.points)
