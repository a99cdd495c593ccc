"""Cut parts out of a model and measure what breaks: one head, one block, the matches themselves."""

import prob3r
from prob3r.rooms import Rooms
from prob3r.runs.edits import Attention, Knockout, Skip
from prob3r.runs.sweep import summarise

model = prob3r.load("mini")
pairs = Rooms("test", model.config.image_size, compile=False).batch(range(8))

effects = prob3r.sweep(
    model,
    pairs,
    {
        "head 0 of block 2": [Knockout("dec2.2.cross_attn", heads=[0])],
        "cross-attention of block 2": [Skip("dec2.2.cross_attn")],
        "all cross-attention": [Skip("dec2.*.cross_attn")],
        "no matches, all looked at alike": [Attention.uniform("dec2.*.cross_attn", keys=144)],
    },
)
table = summarise(effects[effects.metric == "rotation_error"])
for row in table.itertuples():
    print(f"{row.variant:32} {row.effect:+6.1f} degrees [{row.low:+.1f}, {row.high:+.1f}]")
