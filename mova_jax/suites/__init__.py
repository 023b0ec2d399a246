"""Suites of questions to a trained model: `SUITES`, the one table that a new suite is added to.

    python -m mova_jax.evaluate --model runs/base --suite longform outdomain --output out/base

A suite is a function of a `SuiteInput` that returns a `SuiteResult`, and a line in the table. It
makes its own data or takes shards that the user has, asks the model, and ends with a sentence that
is computed from the figures.
"""

from mova_jax.suites import identifiability, longform, montage, outdomain
from mova_jax.suites.suite import Curve, Suite, SuiteInput, SuiteResult, SuiteTable

SUITES: dict[str, Suite] = {
    "longform": longform.SUITE,
    "outdomain": outdomain.SUITE,
    "montage": montage.SUITE,
    "identifiability": identifiability.SUITE,
}

__all__ = ["SUITES", "Curve", "Suite", "SuiteInput", "SuiteResult", "SuiteTable"]
