"""Montage: do real pixels and real sentences still meet when a video gets long?

python -m mova_jax.evaluate --model CLIP --suite montage --data flickr8k msrvtt_frames --output O
"""

from mova_jax.suites.montage.suite import SUITE

__all__ = ["SUITE"]
