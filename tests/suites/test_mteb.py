"""MTEB asks a model about a made task of three videos; the answers are those of the library."""

import types

import numpy as np
import pytest
import torch

mteb = pytest.importorskip("mteb", reason="mteb is not installed: requirements-mteb.txt")

from datasets import Dataset  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData  # noqa: E402
from mteb.models.models_protocols import EncoderProtocol, SearchProtocol  # noqa: E402
from mteb.tasks.retrieval.eng.activitynet_captions_retrieval import (  # noqa: E402
    ActivityNetCaptionsT2VRetrieval,
    ActivityNetCaptionsV2TRetrieval,
)

from mova_jax.evaluation.frame_stream import FrameVectors, embed_videos  # noqa: E402
from mova_jax.suites.mteb import GlobalEncoder, PairSearch, _FittingFrames  # noqa: E402
from tests.search.library_model import make_model  # noqa: E402

SIZE, FRAMES = 16, 3  # of the model, and of a video in its evaluation
TEXTS = ["a red circle moves left", "it stops. then a red circle moves", "left"]
IDS = [str(number) for number in range(len(TEXTS))]


class MadeDecoder:
    """Frames behind the interface of torchcodec's decoder."""

    def __init__(self, frames):
        self._frames = torch.from_numpy(frames)
        self.metadata = types.SimpleNamespace(num_frames=len(frames))

    def get_frames_at(self, numbers):
        return types.SimpleNamespace(data=self._frames[numbers])


def made_frames():
    """u8[f H W 3] of three videos, of the model's size; the last one is short."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8) for n in (5, 9, 2)]


def video_rows():
    decoders = [MadeDecoder(frames.transpose(0, 3, 1, 2)) for frames in made_frames()]

    def decode(batch):
        return {"id": batch["id"], "video": [decoders[int(one)] for one in batch["id"]]}

    return Dataset.from_dict({"id": IDS}).with_transform(decode)


def task_of(metadata):
    """A task of MTEB's with the made videos and texts."""
    texts = Dataset.from_dict({"id": IDS, "text": TEXTS})
    sides = (texts, video_rows()) if metadata.category == "t2v" else (video_rows(), texts)

    class Made(AbsTaskRetrieval):
        def load_data(self, **_):
            own = {one: {one: 1} for one in IDS}
            split = RetrievalSplitData(
                queries=sides[0], corpus=sides[1], relevant_docs=own, top_ranked=None
            )
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    Made.metadata = metadata.model_copy(update={"name": f"Made{metadata.category}"})
    return Made()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def videos(model):
    """The made videos by the library: frames from the first to the last, the short one whole."""
    numbers = ([0, 2, 4], [0, 4, 8], [0, 1])
    chosen = [frames[some] for frames, some in zip(made_frames(), numbers, strict=True)]
    found = embed_videos(model.encoder, chosen)
    return [FrameVectors(rows, np.arange(float(len(rows))), 1.0) for rows in found]


def test_the_adapters_have_the_protocols(model):
    assert isinstance(PairSearch(model), SearchProtocol)
    assert not isinstance(PairSearch(model), EncoderProtocol)
    assert isinstance(GlobalEncoder(model), EncoderProtocol)
    assert not isinstance(GlobalEncoder(model), SearchProtocol)
    assert PairSearch(model).mteb_model_meta.name != GlobalEncoder(model).mteb_model_meta.name


@pytest.mark.parametrize(
    "task", [ActivityNetCaptionsT2VRetrieval, ActivityNetCaptionsV2TRetrieval], ids=["t2v", "v2t"]
)
@pytest.mark.parametrize("adapter", [PairSearch, GlobalEncoder])
def test_mteb_measures_the_scores_of_the_library(model, videos, adapter, task, tmp_path):
    asked = adapter(model)
    found = mteb.evaluate(
        asked, task_of(task.metadata), cache=None, prediction_folder=tmp_path, co2_tracker=False
    )
    (result,) = found.task_results[0].scores["test"]
    if adapter is PairSearch:
        scores = model.score(videos, TEXTS)
    else:
        zt = np.asarray(model.embed_text(TEXTS).pooled)
        scores = np.asarray(model.pool(videos).pooled) @ zt.T / np.linalg.norm(zt, axis=1)
    if task.metadata.category == "t2v":
        scores = scores.T
    ranks = (scores > np.diag(scores)[:, None]).sum(1)
    assert result["ndcg_at_10"] == pytest.approx(np.mean(1 / np.log2(2 + ranks)), abs=1e-5)
    assert result["recall_at_1"] == pytest.approx(np.mean(ranks == 0), abs=1e-5)

    if adapter is PairSearch:
        rows = task_of(task.metadata)
        rows.load_data()
        split, options = rows.dataset["default"]["test"], {"num_proc": None}
        options |= {"task_metadata": rows.metadata, "encode_kwargs": {"show_progress_bar": False}}
        asked.index(split["corpus"], **options)
        answers = asked.search(split["queries"], top_k=3, **options)
        got = [[answers[q][d] for d in IDS] for q in IDS]
        np.testing.assert_allclose(got, scores, atol=1e-5)
        among = {query: ["2", "0"] for query in IDS}
        one = asked.search(split["queries"], top_k=1, top_ranked=among, **options)
        best = ["2" if row[2] > row[0] else "0" for row in scores]
        assert [list(one[q]) for q in IDS] == [[name] for name in best]


def test_frames_arrive_as_bytes_with_time_first():
    grey = np.arange(7, dtype=np.uint8)[:, None, None, None]
    frames = np.broadcast_to(grey, (7, 3, 20, 30)).copy()
    frames[:, 0] += 100  # red
    collate = _FittingFrames(dict, FRAMES, SIZE)
    batch = collate([{"id": "0", "video": MadeDecoder(frames)}])
    (got,) = batch["video"]
    assert got.shape == (FRAMES, SIZE, SIZE, 3) and got.dtype == np.uint8 and batch["id"] == ["0"]
    assert got[:, 3, 4].tolist() == [[100, 0, 0], [103, 3, 3], [106, 6, 6]]
    for wrong in (frames.astype(np.float32) / 255, frames.transpose(0, 2, 3, 1)):
        with pytest.raises(ValueError, match="expected those of torchcodec: uint8"):
            collate([{"id": "0", "video": MadeDecoder(wrong)}])


def test_pairs_of_two_texts_have_no_score(model):
    asked, texts = PairSearch(model), Dataset.from_dict({"id": IDS, "text": TEXTS})
    metadata = ActivityNetCaptionsT2VRetrieval.metadata.model_copy(update={"category": "t2t"})
    options = {"task_metadata": metadata, "encode_kwargs": {}, "num_proc": None}
    asked.index(texts, **options)
    with pytest.raises(ValueError, match="both texts"):
        asked.search(texts, top_k=1, **options)
