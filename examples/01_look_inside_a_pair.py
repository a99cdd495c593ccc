"""Look inside a pair: what every site of the decoder says of view 2, in degrees.

A probe reads a pointmap off each site; the pose that fits it best is compared with the true one.
"""

import prob3r
from prob3r.rooms import Rooms

model = prob3r.load("mini")
bank = prob3r.load_probes("mini")
pair = Rooms("test", model.config.image_size, compile=False)[2]

trace = prob3r.trace(model, pair, record=bank.sites)
print("site                 rotation error (degrees)   shape error")
for site in bank.sites:
    if site.startswith("dec2"):
        view1 = bank.decode(trace[site.replace("dec2", "dec1")]).points
        view2 = bank.decode(trace[site]).points
        errors = pair.errors_of((view1, view2))
        rotation, shape = errors.rotation_error.item(), errors.shape_error.item()
        print(f"{site:20} {rotation:24.1f} {shape:19.3f}")

assert trace.output is not None
errors = pair.errors_of(trace.output.points)
print(f"the model's output   {errors.rotation_error.item():24.1f}")
