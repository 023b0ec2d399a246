"""Devices that are not there, as the topologies of the compiler give them."""

import types


class FakeDevice(types.SimpleNamespace):
    __hash__ = object.__hash__


def fake_devices(processes, each, slices=1):
    """Devices of processes with `each` of them, in slices."""
    count = processes * each
    return [
        FakeDevice(
            id=i,
            platform="gpu",
            device_kind="fake",
            process_index=i // each,
            slice_index=i * slices // count,
        )
        for i in range(count)
    ]
