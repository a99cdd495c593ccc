"""Protocols: public benchmarks by name, so that numbers can be compared with those of papers.

Each file holds one benchmark, or what benchmarks of one kind share. A protocol is a class with a
`name`. All protocols in this folder are found without a list.
"""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from prob3r.studies.protocols.protocol import ChosenScenes, Metric, Protocol
from prob3r.studies.protocols.reconstruct import Reconstruction, reconstruct
from prob3r.studies.protocols.run import Outcome, protocol_named, run

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

PROTOCOLS: Mapping[str, type[Protocol]] = {
    name: Protocol.registry[name]
    for name in sorted(Protocol.registry)
    if Protocol.registry[name].__module__.startswith(f"{__name__}.")
}
"""Every protocol of this folder by its name."""

__all__ = [
    "PROTOCOLS",
    "ChosenScenes",
    "Metric",
    "Outcome",
    "Protocol",
    "Reconstruction",
    "protocol_named",
    "reconstruct",
    "run",
]
