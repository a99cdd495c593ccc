"""Read cross-attention as matching: which heads look at the same 3D point?"""

import prob3r
from prob3r.geometry import median, patch_grid, pck
from prob3r.rooms import Rooms

model = prob3r.load("mini")
patch = model.config.patch
pairs = Rooms("test", model.config.image_size, compile=False).batch(range(8))
matches = pairs.patch_matches(patch)
grid = patch_grid(*pairs.view1.size, patch)

looks = prob3r.trace(model, pairs, record="dec2.*.cross_attn.argmax", output=False)
print("share of co-visible patches that look within one patch of their match, median of 8 pairs")
for site, argmax in looks.items():
    heads = median(pck(argmax, matches.match, matches.visible, grid).T)
    shares = "  ".join(f"{share:.2f}" for share in heads.tolist())
    print(f"{site.removesuffix('.argmax'):20} {shares}")
