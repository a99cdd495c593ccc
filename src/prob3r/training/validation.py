"""How a backbone does on held-out rooms while it trains."""

import torch

from prob3r.data.pair import Pair
from prob3r.data.rooms import Rooms
from prob3r.geometry import PoseAndShape, median, pose_and_shape
from prob3r.models import DUSt3R


class Validation:
    """Held-out rooms, and what is watched on them.

    The shuffled control is watched from the start: a model that ignores view 1 scores alike on
    true and on shuffled pairs, and no training loss shows it.
    """

    def __init__(self, size: int, pairs: int, device: torch.device | str, batch: int = 64):
        rooms = Rooms("validation", size=(size, size), device=device)
        self.batches = [
            rooms.batch(range(start, min(start + batch, pairs))) for start in range(0, pairs, batch)
        ]

    @torch.inference_mode()
    def measure(self, model: DUSt3R) -> dict[str, float]:
        """Return medians over pairs of view 2's errors, and the rotation error of the control."""
        model.eval()
        errors = PoseAndShape(*(torch.cat(e) for e in zip(*(_errors(model, p) for p in self.batches), strict=True)))
        shuffled = torch.cat([_errors(model, p, shuffle=True).rotation_error for p in self.batches])
        model.train()
        return {
            "pointmap_error1": median(errors.pointmap_error1).item(),
            "pointmap_error2": median(errors.pointmap_error2).item(),
            "rotation_error": median(errors.rotation_error).item(),
            "translation_error": median(errors.translation_error).item(),
            "shuffled_rotation_error": median(shuffled).item(),
        }


def _errors(model: DUSt3R, pair: Pair, shuffle: bool = False) -> PoseAndShape:
    """Return all errors of a batch; `shuffle` gives each pair the view 1 of its neighbour."""
    images1 = pair.view1.image.roll(1, 0) if shuffle else pair.view1.image
    output = model(images1, pair.view2.image)
    return pose_and_shape(*output.points, *pair.points, *pair.valid, pair.view2_to_view1)
