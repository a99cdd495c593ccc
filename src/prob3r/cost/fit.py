"""How many views fit into the free memory, checked before a run."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from prob3r.cost.jobs import tracing
from prob3r.errors import Prob3rError
from prob3r.models.protocol import Model, MultiViewModel
from prob3r.models.sites import Site

GIB = 2**30


def check_fits(
    model: Model,
    views: int,
    size: tuple[int, int],
    record: Iterable[str] = (),
    free: int | None = None,
) -> None:
    """Raise Prob3rError if a run over one scene takes more memory than is free.

    The error message says how many views fit. Nothing is checked for a model of third-party code,
    or if the system does not report its free memory.

    Args:
        model: The model, already in memory.
        views: The number of views.
        size: Height and width of every view, in pixels.
        record: Names of the sites that are recorded. Attention sites are not counted, because
            attention is reduced while it is computed.
        free: Free memory in bytes; by default that of the model's device.

    Raises:
        Prob3rError: The run takes more memory than is free.
    """
    if not isinstance(model, MultiViewModel):
        return
    free = free_memory(next(model.parameters()).device) if free is None else free
    residual = [site for site in record if not Site.parse(site).reading]
    if free is None or (needed := run_memory(model, views, size, residual)) <= free:
        return
    fits, too_many = 1, views
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        kept = [site for site in residual if Site.parse(site).view <= middle]
        if run_memory(model, middle, size, kept) <= free:
            fits = middle
        else:
            too_many = middle
    height, width = size
    advice = f"{fits} views fit" if fits > 1 else "not even two views fit; choose smaller images"
    raise Prob3rError(
        f"{views} views of {width}x{height} pixels take {needed / GIB:.1f} GiB, and "
        f"{free / GIB:.1f} GiB are free; {advice}."
    )


def run_memory(
    model: MultiViewModel, views: int, size: tuple[int, int], record: Iterable[str] = ()
) -> int:
    """Return the peak memory of a run over one scene in bytes, without the model's weights.

    It is for float32 tensors. Nothing is computed; see `tracing`.
    """
    cost = tracing(model, size, record=list(record), views=views)
    return cost.total - cost.weights


def free_memory(device: torch.device) -> int | None:
    """Return the free memory of a device in bytes, or None if the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:  # only Linux has it
        return None
    found = re.search(r"^MemAvailable:\s*(\d+) kB", lines, re.M)
    return 1024 * int(found[1]) if found else None
