"""A contact sheet of pairs."""

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.scenes.view import View
from prob3r.scenes.views import Pair

GAP = 4  # pixels between the tiles
# Yellow to dark blue in five steps: near is bright.
RAMP = (
    (0.99, 0.91, 0.36),
    (0.94, 0.5, 0.3),
    (0.7, 0.2, 0.48),
    (0.35, 0.1, 0.52),
    (0.05, 0.03, 0.2),
)


def contact_sheet(pair: Pair, scale: int = 1) -> Image.Image:
    """Draw a batch of pairs, one pair a row: view 1, view 2, depth 1, depth 2.

    Args:
        pair: A batch of pairs with depth. All views have one size.
        scale: Pixels of the sheet along each side of a pixel of a view.

    Raises:
        Prob3rError: A view has no depth.
    """
    tiles = [_colours(pair.view1), _colours(pair.view2), _depths(pair.view1), _depths(pair.view2)]
    rows = torch.stack(tiles, dim=1)  # b 4 3 h w
    rows = torch.nn.functional.pad(rows, (0, GAP, 0, GAP), value=1.0)
    sheet = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)[:-GAP, :-GAP]
    pixels = (sheet * 255).round().to(torch.uint8).cpu().numpy()
    picture = Image.fromarray(pixels)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def _colours(view: View) -> Float[Tensor, "b 3 h w"]:
    return (0.5 * view.image + 0.5).clamp(0, 1)


def _depths(view: View) -> Float[Tensor, "b 3 h w"]:
    """Depth as colour, scaled from the nearest to the farthest point of each view."""
    if view.depth is None:
        raise Prob3rError("The pair has no depth; a contact sheet needs it for both views.")
    known = view.depth > 0
    near = view.depth.where(known, torch.inf).amin(dim=(1, 2), keepdim=True)
    far = view.depth.amax(dim=(1, 2), keepdim=True)
    level = ((view.depth - near) / (far - near).clamp(min=1e-6)).clamp(0, 1) * (len(RAMP) - 1)
    ramp = torch.tensor(RAMP, device=level.device)
    low = level.floor().clamp(max=len(RAMP) - 2).long()
    colour = torch.lerp(ramp[low], ramp[low + 1], (level - low)[..., None])
    return torch.where(known[..., None], colour, 0.6).movedim(-1, 1)
