"""Augmentation that gives rendered images the look of hand-held photographs."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from prob3r.scenes.readers.items import Seen
from prob3r.scenes.view import View

_REACH = 3  # pixels on each side that a blur covers

Images = Float[Tensor, "b 3 h w"]


def photographed(scenes: Seen, generator: torch.Generator) -> Seen:
    """Return a batch of scenes whose images look like hand-held photographs of a cheap camera.

    All views of a scene share its colours and contrast. Each view has its own exposure, white
    balance, vignette, blur and noise. Depth and cameras stay as they are.
    """
    draw = _Draw(len(scenes), scenes.images[0], generator)
    saturation = draw.between(0.2, 1.5).where(draw.between(0.0, 1.0) > 0.1, 0.0)
    contrast, gamma = draw.between(0.55, 1.3), (0.25 * draw.normal()).exp()
    level = draw.between(0.35, 0.6)

    def develop(view: View) -> View:
        light = ((view.image + 1) / 2).clamp(min=1e-4) ** gamma
        grey = light.mean(dim=1, keepdim=True)
        light = torch.lerp(grey, light, saturation)
        light = level + contrast * (light - grey.mean(dim=(2, 3), keepdim=True))
        return replace(view, image=_take(light, draw))

    return scenes.with_each(develop)


class _Draw:
    """Random numbers, one for each image of a batch, in the shape of a factor of images."""

    def __init__(self, count: int, like: Tensor, generator: torch.Generator):
        self.count, self.like, self.generator = count, like, generator

    def between(self, low: float, high: float, channels: int = 1) -> Float[Tensor, "b c 1 1"]:
        numbers = torch.rand(self.count, channels, 1, 1, generator=self.generator)
        return (low + (high - low) * numbers).to(self.like)

    def normal(self, channels: int = 1) -> Float[Tensor, "b c 1 1"]:
        numbers = torch.randn(self.count, channels, 1, 1, generator=self.generator)
        return numbers.to(self.like)

    def noise(self) -> Images:
        return torch.randn(self.like.shape, generator=self.generator).to(self.like)


def _take(light: Images, draw: _Draw) -> Images:
    """Return the photograph, in [-1, 1], that a camera takes of the light before it, in [0, 1]."""
    balance = (0.2 * draw.normal() + 0.07 * draw.normal(3)).exp()
    light = light.clamp(min=0) * balance * _vignette(draw)
    light = _blurred(light, draw).clamp(min=0)
    light = light ** (0.1 * draw.normal()).exp()
    size = draw.between(0.0, 0.2) ** 2
    light = light + size * (0.5 + light.sqrt()) * draw.noise()
    return (2 * light - 1).clamp(-1, 1)


def _vignette(draw: _Draw) -> Float[Tensor, "b 1 h w"]:
    """Return how much light reaches each pixel: less towards the corners."""
    height, width = draw.like.shape[2:]
    y = torch.linspace(-1, 1, height, device=draw.like.device)[:, None]
    x = torch.linspace(-1, 1, width, device=draw.like.device)
    return 1 - draw.between(-0.1, 0.4).clamp(min=0) * (x * x + y * y) / 2


def _blurred(light: Images, draw: _Draw) -> Images:
    """Return images that are out of focus, shaken or sharpened, each by one Gaussian ellipse.

    The ellipse's axes are up to 1.3 pixels in standard deviation. For a shaken image one axis is
    long. Sharpening adds half of what the blur would take away, as cameras do.
    """
    axis = 0.3 + draw.between(0.0, 1.0) ** 3
    other = torch.where(draw.between(0.0, 1.0) < 0.7, axis, 0.3)
    angle = draw.between(0.0, torch.pi)
    steps = torch.arange(-_REACH, _REACH + 1, device=light.device, dtype=light.dtype)
    y, x = steps[:, None], steps
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    kernel = (-0.5 * ((along / axis) ** 2 + (across / other) ** 2)).exp()  # b 1 k k
    kernel = kernel / kernel.sum(dim=(2, 3), keepdim=True)
    amount = torch.where(draw.between(0.0, 1.0) < 0.2, -0.5, 1.0)
    still = torch.zeros_like(kernel)
    still[..., _REACH, _REACH] = 1
    kernel = torch.lerp(still, kernel, amount).repeat_interleave(3, dim=0)  # 3b 1 k k
    padded = F.pad(light, (_REACH,) * 4, mode="replicate").flatten(0, 1)[None]
    return F.conv2d(padded, kernel, groups=len(kernel)).reshape(light.shape)
