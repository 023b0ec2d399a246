"""Videos that are made on the fly, as for the data tests."""

from tests.data.conftest import ramp, write_video

__all__ = ["ramp", "write_video"]
