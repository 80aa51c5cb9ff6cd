"""Seeded attacks on the library, which the suite makes by the hundred and scripts/fuzz.py by the thousand."""

from importlib import import_module

# Name of an attack, and where it is. In the order of what a trial costs.
_PLACES = {
    "readers": "readers.Readers",
    "folders": "folders.Folders",
    "encoding": "encoding.Encoding",
    "threads": "encoding.Threads",
    "kills": "runs.Kills",
    "checkpoints": "runs.Checkpoints",
    "disks": "runs.Disks",
}
ATTACKS = tuple(_PLACES)


def get_attack(name):
    """Return the attack of a name."""
    module, _, attribute = _PLACES[name].partition(".")
    return getattr(import_module(f"{__name__}.{module}"), attribute)
