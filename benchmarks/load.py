"""Reading full-size DUSt3Rs, beside reading the same file and doing nothing with it.

For every published layout, as an official `.pth` and as a hub folder: seconds of `models.read`,
which checks every weight, beside two bare reads of the same file. One brings every tensor into
memory, by `torch.load`, or safetensors' `load_file` and a copy. The other maps the file and sums
every tensor, the least that touches all of it; where the file is in the system's cache and its
pages are quick to map, what remains there is our building of the modules, a tenth of a second.
Memory is the peak above what the process had before, over the size of the file. Every measurement
is a process of its own, taking turns; the table shows medians, of the ratios too.

Run `python benchmarks/load.py [RECIPE]` on an idle machine. RECIPE is a folder with a recipe for
weights, `weights.py`, and the inventories of the published checkpoints; without it, weights are
drawn here, of the same shapes but for what prob3r leaves unread. It takes 5 GB of disk, Linux, and
about two minutes a layout, most of them to draw the weights.
"""

import argparse
import ast
import json
import runpy
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

from prob3r.models import parse_model_string, random, read

LAYOUTS = ("dust3r_224_linear", "dust3r_512_linear", "dust3r_512_dpt")
MODEL = (
    "AsymmetricCroCo3DStereo(pos_embed='RoPE100', img_size=({size}, {size}), head_type='{head}', "
    "output_mode='pts3d', depth_mode=('exp', -inf, inf), conf_mode=('exp', 1, inf), "
    "enc_embed_dim=1024, enc_depth=24, enc_num_heads=16, "
    "dec_embed_dim=768, dec_depth=12, dec_num_heads=12)"
)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, nargs="?", help="of weights.py and *.keys.json")
    parser.add_argument("--layout", choices=LAYOUTS, action="append", help="only this one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where weights are, or are put to stay")
    parser.add_argument("--once", choices=READS, help="internal")
    options = parser.parse_args()
    if options.once:
        print(json.dumps(once(READS[options.once], options.recipe)))
        return
    ratios = "ratio to read (bar 1.3)", "ratio to mapped"
    table = Table("file", "GB", "ours", "read", "mapped", *ratios, "our memory (bar 1.3)")
    for layout in options.layout or LAYOUTS:
        with TemporaryDirectory() as temporary:
            folder = options.folder or Path(temporary)
            for path in written(options.recipe, layout, folder):
                compare(table, f"{layout} {path.suffix or 'folder'}", path, options.rounds)
    Console(width=140).print(table)


def written(recipe: Path | None, layout: str, folder: Path) -> tuple[Path, Path]:
    """Write a layout's weights both ways, unless they are there, and return where."""
    official, hub = folder / f"{layout}.pth", folder / layout
    if not official.exists():
        model, weights = drawn(layout) if recipe is None else made(recipe, layout)
        hub.mkdir(parents=True, exist_ok=True)
        arguments = ast.parse(model.replace("inf", "1e999"), mode="eval").body.keywords
        config = {argument.arg: ast.literal_eval(argument.value) for argument in arguments}
        (hub / "config.json").write_text(json.dumps(config))
        save_file(weights, hub / "model.safetensors")
        torch.save({"args": Namespace(model=model), "model": weights}, official)
    return official, hub


def made(recipe: Path, layout: str) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the model string and the weights that the conformance recipe gives."""
    inventory = json.loads((recipe / f"{layout}.keys.json").read_text())
    weights = runpy.run_path(str(recipe / "weights.py"))["state_dict"](inventory["keys"])
    return inventory["model"], weights


def drawn(layout: str) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the model string and weights of our own."""
    _, size, head = layout.split("_")
    model = MODEL.format(size=size, head=head)
    return model, random(parse_model_string(model)).state_dict()


def compare(table: Table, name: str, path: Path, rounds: int) -> None:
    """Add a row for a file or folder."""
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))
    apart("read", path)  # brings the file into the cache
    turns = [{what: apart(what, path) for what in READS} for _ in range(rounds)]
    table.add_row(
        name,
        f"{size / 1e9:.2f}",
        *(f"{median(turn[what][0] for turn in turns):.2f} s" for what in READS),
        *(
            f"{median(turn['ours'][0] / turn[what][0] for turn in turns):.2f}"
            for what in ("read", "mapped")
        ),
        f"{median(turn['ours'][1] for turn in turns) / size:.2f}",
    )


def apart(what: str, path: Path) -> tuple[float, int]:
    """Return the seconds and the bytes of one read in a process of its own."""
    command = [sys.executable, __file__, str(path), "--once", what]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def once(reading: Callable[[Path], object], path: Path) -> tuple[float, int]:
    """Return the seconds that a read takes and the bytes that it adds at its peak."""
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = time.perf_counter()
    kept = reading(path)
    seconds = time.perf_counter() - start
    del kept
    return seconds, memory("VmHWM") - before


def memory(field: str) -> int:
    """Return a field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def bare(path: Path) -> object:
    """Bring every tensor into memory, and nothing else."""
    if path.is_dir():
        return [tensor.clone() for tensor in load_file(path / "model.safetensors").values()]
    with torch.serialization.safe_globals([Namespace]):
        return torch.load(path, weights_only=True)


def mapped(path: Path) -> object:
    """Map every tensor and read each of its numbers once."""
    if path.is_dir():
        weights = load_file(path / "model.safetensors")
    else:
        with torch.serialization.safe_globals([Namespace]):
            weights = torch.load(path, weights_only=True, mmap=True)["model"]
    return [tensor.sum() for tensor in weights.values()]


READS = {"ours": read, "read": bare, "mapped": mapped}


if __name__ == "__main__":
    main()
