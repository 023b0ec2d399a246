"""The command gives the ranks of an evaluation: same model, same frames, from files and shards."""

import json

import numpy as np
import pytest

from mova_jax.data.images import encode_ppm
from mova_jax.evaluation.context import EvalContext
from mova_jax.search import opening, query
from mova_jax.search.__main__ import main
from mova_jax.search.indexing import index_folder
from tests.clips import video_record, write_shards, write_video
from tests.search.library_model import make_model

VIDEOS = 16
WORDS = ("a red circle moves left.", "it stops.", "a circle.", "left, left!", "then a red one.")


@pytest.mark.parametrize("objective", ["parts_ordered", "full"])
def test_ranks_of_the_command_are_those_of_an_evaluation(objective, tmp_path, monkeypatch, capsys):
    model, rng = make_model(tmp_path, objective), np.random.default_rng(0)
    records, texts = [], []
    for i in range(VIDEOS):
        frames = rng.integers(256, size=(1 + i % 3, 16, 16, 3), dtype=np.uint8)
        said = [WORDS[k] for k in rng.choice(len(WORDS), 1 + i % 4, replace=False)]
        stored = [encode_ppm(frame) for frame in frames]
        records.append(video_record(f"v{i}", said, frames=stored))
        texts.append(" ".join(said))
        # PNG in a MOV: the same pixels.
        video = tmp_path / "videos" / f"{i}.mov"
        write_video(video, frames, rate=1, codec="png", pix_fmt="rgb24")
    write_shards(tmp_path / "shards", {"test": records})
    settings = model.tokenizer, model.params, "test"
    context = EvalContext(
        model.config, model.fns, tmp_path / "shards", *settings, blend_weight=model.weight
    )
    index_folder(model, tmp_path / "videos", tmp_path / "index")
    monkeypatch.setattr(opening, "load", lambda path: model)
    monkeypatch.setattr(opening, "enable_compilation_cache", lambda config: None)
    monkeypatch.setattr(query, "SAME", 2.0)  # of a model that is not trained, all are near-copies
    ranks = []
    for i, text in enumerate(texts):
        command = ["--index", str(tmp_path / "index"), "--top", str(VIDEOS), "--json", text]
        assert main(command) == 0
        answers = json.loads(capsys.readouterr().out)
        place = {answer["path"]: answer["rank"] for answer in answers}
        ranks.append(place[str(tmp_path / "videos" / f"{i}.mov")])
    expected = context.query_ranks.by_score[context.query_ranks.record].t2v.values
    assert ranks == expected.tolist() and len(set(ranks)) > 5
