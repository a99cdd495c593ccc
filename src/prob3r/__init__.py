"""prob3r: look inside multi-view transformers."""

from prob3r.errors import Prob3rError
from prob3r.models import load
from prob3r.probes import load_probes
from prob3r.rooms import Rooms  # also makes rooms known to `open_pairs`
from prob3r.runs.encoded import reusing_views
from prob3r.runs.sweep import sweep
from prob3r.runs.trace import trace
from prob3r.scenes import Pair, View, Views

__all__ = [
    "Pair",
    "Prob3rError",
    "Rooms",
    "View",
    "Views",
    "load",
    "load_probes",
    "reusing_views",
    "sweep",
    "trace",
]
__version__ = "0.1.0"
