"""The campaign against faults: kills, disks, bad input and hostile files; see `__main__.py`."""
