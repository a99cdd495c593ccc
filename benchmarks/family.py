"""The models of the family at their published sizes, on a few views of noise, with random weights.

- forward: beside the official code with the same weights, `--official PATH`: a checkout of
  facebookresearch/vggt, yyfz/Pi3, ByteDance-Seed/Depth-Anything-3, naver/mast3r (with its
  submodules) or naver/croco from GitHub, and what it imports. The two take turns. Of CroCo it is
  the completion of a masked view.
- record: a forward that records all residual sites, beside a plain one, turn by turn.
- sweep: view 2 kept from seeing view 1 in the attention between views of one block at a time,
  beside running the full model for each. `allowed` is the speed-up that counting floating-point
  operations allows.
- memory: the peak of a process of its own that records all residual sites of view 2, beside the
  size of the model.

Seconds are those of the clock and, in brackets, of the processor: on a busy machine the latter tell
more. Run `python benchmarks/family.py vggt [--official PATH] [--threads 1]`; VGGT takes 12 GB of
memory and about ten minutes on two idle cores.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from prob3r.cost.dry_run import DryRun, operations
from prob3r.models import (
    CroCo,
    CroCoConfig,
    DepthAnything3Config,
    MASt3RConfig,
    MultiViewModel,
    Pi3Config,
    Prediction,
    VGGTConfig,
    random,
)
from prob3r.models.architectures import architecture_of
from prob3r.models.dinov2 import imagenet_normalised
from prob3r.models.sites import BETWEEN_VIEWS
from prob3r.runs.edits import Edit, Knockout, view
from prob3r.runs.replay import Replay
from prob3r.runs.sweep import sweep
from prob3r.runs.trace import trace
from prob3r.scenes import View
from prob3r.scenes.views import Views, views_of

CONFIGS = {
    "vggt": VGGTConfig(),
    "pi3": Pi3Config(),
    "da3": DepthAnything3Config(),
    "mast3r": MASt3RConfig((512, 512)),
    "croco": CroCoConfig((224, 224)),
}
CHECKS = ("forward", "record", "sweep", "memory")


class Seconds(NamedTuple):
    """How long some work took: by the clock, and on the processor."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} s ({self.cpu:.2f})"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=CONFIGS)
    parser.add_argument("--official", type=Path, help="a checkout of the official code")
    parser.add_argument("--only", choices=CHECKS, action="append")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", type=int, default=6, help="of the sweep")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--part", type=int, default=1, help="divide the numbers of blocks of VGGT or π³ by this"
    )
    parser.add_argument("--child", action="store_true", help="internal")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.child:
        print(*peak(part_of(CONFIGS[options.model], options.part), options.views, options.size))
        return
    checks = options.only or CHECKS
    most = architecture_of(CONFIGS[options.model]).most_views
    options.views = min(options.views, most or options.views)
    title = f"{options.model}: {options.views} views of {options.size} pixels"
    table = Table("what", "took", "beside it", "ratio (processor)", "bar", title=title)
    if {*checks} - {"memory"}:
        model = random(part_of(CONFIGS[options.model], options.part)).requires_grad_(False)
        views = noise(options.views, options.size)
        trace(model, views)  # warms up
        if "forward" in checks and options.official:
            forward(table, options.model, model, views, options.official, options.rounds)
        if "record" in checks:
            record(table, model, views, options.rounds)
        if "sweep" in checks:
            sweeping(table, model, views, options.variants)
        del model
    if "memory" in checks:
        memory(table, options)
    Console(width=140).print(table)


def part_of(config: Any, part: int) -> Any:
    """The configuration with an equal part of the blocks of its encoder and of its trunk."""
    if part == 1:
        return config
    fewer = {name: getattr(config, name) // part for name in ("depth", "enc_depth")}
    if hasattr(config, "head_blocks"):
        fewer["head_blocks"] = tuple(max((b + 1) // part, 1) - 1 for b in config.head_blocks)
    return replace(config, **fewer)


def noise(count: int, size: int) -> Views:
    """One scene of views of noise."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, 3, size, size)
    return views_of([View(2 * torch.rand(shape, generator=generator) - 1) for _ in range(count)])


def forward(
    table: Table, name: str, ours: MultiViewModel, views: Views, checkout: Path, rounds: int
) -> None:
    """Compare a plain forward with that of the official code."""
    theirs, read = OFFICIAL[name](checkout, ours.config)
    prefix = "model." if name == "da3" else ""
    weights = {prefix + key: tensor for key, tensor in ours.state_dict().items()}
    left = theirs.load_state_dict(weights, strict=False, assign=True)
    assert not left.unexpected_keys, left.unexpected_keys
    theirs.eval()
    images = torch.stack(views.images, 1)

    def run_theirs() -> Any:
        with torch.no_grad():
            return read(theirs, images)

    def run_ours() -> Any:
        if not isinstance(ours, CroCo):
            return trace(ours, views).output
        with torch.no_grad():
            return ours.complete(*views.images, _mask(ours, views.images[0]))

    output, other = run_ours(), run_theirs()  # warms up
    found = output if isinstance(ours, CroCo) else _depth(output)
    difference = (found - other).abs().max().item() / other.abs().max().item()
    mine, official = turns(run_ours, run_theirs, rounds)
    what = "patches" if isinstance(ours, CroCo) else "depth"
    row(table, f"forward, {what} differ by {difference:.0e}", mine, "official", official, "1")


def _depth(output: Prediction) -> torch.Tensor:
    """Return the depth of view 1."""
    if output.depth is not None:
        return output.depth[0]
    local = output.points if output.local_points is None else output.local_points
    return local[0][..., 2]


def _mask(model: CroCo, image: torch.Tensor) -> torch.Tensor:
    return model.draw_mask(image, torch.Generator().manual_seed(0))


def _vggt(checkout: Path, config: Any) -> tuple[torch.nn.Module, Callable[..., Any]]:
    sys.path.insert(0, str(checkout))
    from vggt.models.vggt import VGGT

    with undrawn():
        model = VGGT(enable_track=False)
    trunk = model.aggregator
    trunk.depth = trunk.aa_block_num = config.depth
    trunk.patch_embed.blocks = trunk.patch_embed.blocks[: config.enc_depth]
    trunk.frame_blocks = trunk.frame_blocks[: config.depth]
    trunk.global_blocks = trunk.global_blocks[: config.depth]
    for head in (model.point_head, model.depth_head):
        head.intermediate_layer_idx = list(config.head_blocks)
    return model, lambda model, images: model((images + 1) / 2)["depth"][:, 0, ..., 0]


def _pi3(checkout: Path, config: Any) -> tuple[torch.nn.Module, Callable[..., Any]]:
    sys.path.insert(0, str(checkout))
    from pi3.models.pi3 import Pi3

    with undrawn():
        model = Pi3()
    model.encoder.blocks = model.encoder.blocks[: config.enc_depth]
    model.decoder = model.decoder[: 2 * config.depth]
    return model, lambda model, images: model((images + 1) / 2)["local_points"][:, 0, ..., 2]


def _da3(checkout: Path, config: Any) -> tuple[torch.nn.Module, Callable[..., Any]]:
    sys.path.insert(0, str(checkout / "src"))
    from depth_anything_3.cfg import create_object, load_config

    holder = torch.nn.Module()
    holder.model = create_object(
        load_config(str(checkout / "src/depth_anything_3/configs/da3-small.yaml"))
    )
    return holder, lambda holder, images: holder.model(
        imagenet_normalised(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    ).depth[:, 0]


def _mast3r(checkout: Path, config: Any) -> tuple[torch.nn.Module, Callable[..., Any]]:
    sys.path.insert(0, str(checkout))
    from mast3r.model import AsymmetricMASt3R

    inf = float("inf")
    model = AsymmetricMASt3R(
        pos_embed="RoPE100",
        img_size=(512, 512),
        head_type="catmlp+dpt",
        output_mode="pts3d+desc24",
        depth_mode=("exp", -inf, inf),
        conf_mode=("exp", 1, inf),
        two_confs=True,
        desc_conf_mode=("exp", 0, inf),
        landscape_only=False,
        enc_embed_dim=1024,
        enc_depth=24,
        enc_num_heads=16,
        dec_embed_dim=768,
        dec_depth=12,
        dec_num_heads=12,
    )

    def read(model: torch.nn.Module, images: torch.Tensor) -> Any:
        shape = torch.tensor([images.shape[-2:]])
        views = [{"img": image, "true_shape": shape, "instance": "0"} for image in images.unbind(1)]
        return model(*views)[0]["pts3d"][..., 2]

    return model, read


def _croco(checkout: Path, config: Any) -> tuple[torch.nn.Module, Callable[..., Any]]:
    sys.path.insert(0, str(checkout))
    from models.croco import CroCoNet

    class Given(torch.nn.Module):
        """Hides the patches that ours hides."""

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return _mask(like, torch.empty(1, 3, *_size(tokens)))

    def _size(tokens: torch.Tensor) -> tuple[int, int]:
        side = 16 * round(tokens.shape[1] ** 0.5)
        return side, side

    like = CroCo(CroCoConfig((16, 16), 16, 16, 1, 1, 16, 1, 1))
    model = CroCoNet(
        enc_embed_dim=1024,
        enc_depth=24,
        enc_num_heads=16,
        dec_embed_dim=768,
        dec_num_heads=12,
        dec_depth=12,
        pos_embed="RoPE100",
    )
    model.mask_generator = Given()
    return model, lambda model, images: model(*imagenet_normalised(images[0]).split(1))[0]


@contextmanager
def undrawn() -> Iterator[None]:
    """Leave the weights of modules that are made meanwhile as they are: others take their place."""
    names = [name for name in dir(torch.nn.init) if name.endswith("_") and name[0] != "_"]
    drawing = {name: getattr(torch.nn.init, name) for name in names}
    for name in names:
        setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, function in drawing.items():
            setattr(torch.nn.init, name, function)


OFFICIAL = {"vggt": _vggt, "pi3": _pi3, "da3": _da3, "mast3r": _mast3r, "croco": _croco}


def record(table: Table, model: MultiViewModel, views: Views, rounds: int) -> None:
    """Compare a forward that records all residual sites with a plain one."""
    plain, recorded = turns(lambda: trace(model, views), lambda: trace(model, views, "*"), rounds)
    count = len(model.sites(views.count))
    row(table, f"record {count} sites", recorded, "plain forward", plain, "1.05")


def sweeping(table: Table, model: MultiViewModel, views: Views, count: int) -> None:
    """Compare a sweep with full runs of its variants."""
    blocks = model.stacks["dec"].blocks
    count = min(count, blocks)
    (between,) = (s for s in model.stacks["dec"].sublayers[-1] if s in BETWEEN_VIEWS)
    variants: dict[int, list[Edit]] = {
        block: [Knockout(f"dec2.{block}.{between}", queries=view(2), keys=view(1))]
        for block in range(blocks // count - 1, blocks, blocks // count)
    }
    outputs: dict[int, Prediction] = {}

    def naive() -> None:
        for block, edits in variants.items():
            output = trace(model, views, edits=edits).output
            assert output is not None
            outputs[block] = output

    def nearest(output: Prediction, views: Views, clean: Prediction) -> dict[str, torch.Tensor]:
        if output.patches is not None:
            return {"point": output.patches[1][:, -1].norm(dim=-1)}
        return {"point": output.points[1][:, -1, -1].norm(dim=-1)}

    slow = once(naive)
    tables = []
    fast = once(lambda: tables.append(sweep(model, views, variants, nearest)))
    values = tables[0].set_index("variant")["value"]
    differences = [
        abs(values[b] / nearest(o, views, o)["point"].item() - 1) for b, o in outputs.items()
    ]
    with DryRun():
        _, full = operations(lambda: trace(model, views))
        replay = Replay(model, views)
        rest = sum(operations(lambda e=edits: replay.run(e))[1] for edits in variants.values())
    allowed = full * len(variants) / (full + rest)
    reached = slow.cpu / fast.cpu / allowed
    table.add_row(
        f"sweep of {len(variants)} knockouts",
        str(fast),
        f"full runs {slow}",
        f"{slow.wall / fast.wall:.2f} ({slow.cpu / fast.cpu:.2f}) times faster, "
        f"{reached:.0%} of {allowed:.2f} allowed; differs by {max(differences):.0e}",
        "85 %",
    )


def memory(table: Table, options: argparse.Namespace) -> None:
    """Compare the peak of recording one view's sites with the size of the model."""
    command = [sys.executable, __file__, options.model, "--child"]
    for name in ("views", "size", "part"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    took, size, records = (int(n) / 2**20 for n in done.stdout.split()[-3:])
    table.add_row(
        "record view 2",
        f"{took:.0f} MiB",
        f"model {size:.0f} MiB, records {records:.0f} MiB",
        f"{took / size:.3f}",
        "1.2",
    )


def peak(config: Any, count: int, size: int) -> tuple[int, int, int]:
    """Return how many bytes this process grew by, and those of the model and of the records."""
    before = _resident()
    model, views = random(config), noise(count, size)
    run = trace(model, views, "*2.*")
    held, kept = (sum(t.nbytes for t in tensors) for tensors in (model.parameters(), run.values()))
    return _resident() - before, held, kept


def row(table: Table, what: str, took: Seconds, than: str, other: Seconds, bar: str) -> None:
    """Add a row that compares two times."""
    ratio = f"{took.wall / other.wall:.2f} ({took.cpu / other.cpu:.2f})"
    table.add_row(what, str(took), f"{than} {other}", ratio, bar)


def once(work: Callable[[], object]) -> Seconds:
    """Return how long some work takes."""
    start, used = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - start, time.process_time() - used)


def turns(
    one: Callable[[], object], other: Callable[[], object], rounds: int
) -> tuple[Seconds, Seconds]:
    """Return the least times of two works that take turns, by the clock and on the processor."""
    both = [(once(one), once(other)) for _ in range(rounds)]
    first, second = zip(*both, strict=True)
    return _least(first), _least(second)


def _least(times: tuple[Seconds, ...]) -> Seconds:
    return Seconds(min(t.wall for t in times), min(t.cpu for t in times))


def _resident() -> int:
    """Return the most memory that this process ever held, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main()
