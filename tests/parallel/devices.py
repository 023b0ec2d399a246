"""Fake devices, with the attributes of those of a compiler topology."""

import types


class FakeDevice(types.SimpleNamespace):
    __hash__ = object.__hash__


def fake_devices(processes, each, slices=1):
    """`each` devices for each process, in slices."""
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
