"""Suite `identifiability`: does training recover known concept blocks, and do masks find them?

data.py generates videos and captions from blocks, training.py trains the method on them with small
encoders, evaluate.py and scores.py measure, suite.py has the rows, the curves and the sentence.
"""

from mova_jax.suites.identifiability.suite import SUITE

__all__ = ["SUITE"]
