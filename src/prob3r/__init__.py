"""prob3r: look inside multi-view transformers."""

from prob3r.data import Pair, View
from prob3r.errors import Prob3rError
from prob3r.models import load
from prob3r.probes import load_probes
from prob3r.sweep import sweep
from prob3r.trace import reusing_views, trace

__all__ = ["Pair", "Prob3rError", "View", "load", "load_probes", "reusing_views", "sweep", "trace"]
__version__ = "0.1.0"
