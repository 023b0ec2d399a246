"""Dual softmax by hand."""

import numpy as np

from mova_jax.evaluation.protocols.dual_softmax import revised


def test_an_answer_that_all_queries_like_is_worth_less():
    # Video 0 is liked by both captions, and the second caption is a little closer to it.
    scores = np.array([[0.50, 0.51], [0.30, 0.505]])
    found = revised(scores, 1)  # captions search: softmax over the captions of each video
    e = np.exp(-1.0)  # 100 * (0.50 - 0.51)
    np.testing.assert_allclose(found[0], [0.50 * e / (1 + e), 0.51 / (1 + e)])
    np.testing.assert_allclose(found[1], [0.30 * np.exp(-20.5), 0.505], rtol=1e-6)
    assert scores[:, 1].argmax() == 0 and found[0, 1] < found[1, 1]  # 0.373 < 0.505
    videos = revised(scores, 0)  # videos search: softmax over the videos of each caption
    np.testing.assert_allclose(videos[:, 1], scores[:, 1] * [np.exp(0.5), 1] / (np.exp(0.5) + 1))
