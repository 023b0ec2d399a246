"""Zero-shot classification against loops over prompts and classes, and files of classes."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from mova_jax.data.classes import read_classes
from mova_jax.data.shards import Caption, Manifest, write_manifest, write_split
from mova_jax.data.storyboard.generate import TOKENIZER, make_record
from mova_jax.data.tokenizer import Tokenizer, pad_tokens, train_tokenizer
from mova_jax.evaluation.evaluator import Evaluator
from mova_jax.evaluation.protocols.classification import accuracy, classification
from mova_jax.losses.pools import CosineSums, pool_frames
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.state import make_train_spec
from tests import tiny

CLASSES = {"bird": ["bird", "small bird"], "cat": "cat", "red dog": ["dog"]}
TEMPLATES = ["a photo of a {}.", "{} in a video"]
SPOKEN = ["Bird", "dog", "RED DOG ", "cat", "elephant"]  # the last one is in "videos"
SIZES = {
    "model__vision__image_size": 16,
    "model__text__context": 40,
    "model__text__vocab_size": 1100,
    "model__frame_positions": 8,
    "data__token_buckets": (40,),
    "data__parts": 2,
    "eval__batch_size": 4,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder whose captions are names of classes; the second video is a picture."""
    path, records = tmp_path_factory.mktemp("classes"), []
    for index, name in enumerate(SPOKEN):
        record = dataclasses.replace(make_record(0, "test", index, 16), captions=(Caption(name),))
        if index == 1:
            still = {"frames": record.frames[:1], "timestamps": record.timestamps[:1]}
            record = dataclasses.replace(record, **still)
        records.append(record)
    split = write_split(path, "test", records, name="videos")
    train_tokenizer([*SPOKEN, *TEMPLATES], 1024, path / TOKENIZER)
    write_manifest(path, Manifest("videos", {"test": split}))
    return path


def written(path, **changes):
    videos = {"test-000004": "bird"}
    fields = {"classes": CLASSES, "templates": TEMPLATES, "videos": videos} | changes
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
    return path


def test_videos_are_scored_as_by_a_loop_over_prompts(folder, tmp_path):
    config = tiny.config("parts", **SIZES)
    mesh, tokenizer = (
        mesh_lib.make_mesh(data=2, fsdp=2, tensor=2),
        Tokenizer(folder / TOKENIZER, 40),
    )
    spec = make_train_spec(config, mesh)
    classes = read_classes(written(tmp_path / "classes.json"))
    evaluator = Evaluator(spec.model_spec, config, mesh, folder, tokenizer, classes)
    params = tiny.initial(spec).params
    context = evaluator.context(params, "test")
    metrics = classification(context)

    model, video = spec.model(params), context.embeddings.video
    encode = tiny.jit(lambda p, *text: spec.model(p).encode_text(*text).pooled)
    vectors = []
    for names in (["bird", "small bird"], ["cat"], ["dog"]):
        prompts = [template.format(name) for name in names for template in TEMPLATES]
        ids = [tokenizer.encode(prompt).ids for prompt in prompts]
        vectors.append([np.asarray(encode(params, *pad_tokens([one], (40,), 0)))[0] for one in ids])
    unit = [[v / np.linalg.norm(v) for v in one] for one in vectors]
    means = [np.mean(one, axis=0) for one in unit]
    means = np.array([mean / np.linalg.norm(mean) for mean in means])
    right = np.array([0, 2, 2, 1, 0])
    frames = np.zeros((len(SPOKEN), len(means)))
    for b, k in np.ndindex(frames.shape):
        cosine = (
            video.frames[b] @ means[k] / np.maximum(np.linalg.norm(video.frames[b], axis=-1), 1e-9)
        )
        sums = CosineSums(cosine, np.ones_like(cosine), np.ones_like(cosine))
        frames[b, k] = pool_frames(sums, video.frame_mask[b], config.losses.pool, model.sharpness)
    for name, scores in (("global", video.pooled @ means.T), ("frames", frames)):
        first = scores.argmax(axis=1) == right
        assert metrics[f"class/{name}/top1"] == pytest.approx(100 * first.mean())
        of_class = [first[right == k].mean() for k in range(3)]
        assert metrics[f"class/{name}/mean_per_class"] == pytest.approx(100 * np.mean(of_class))
        found = jax.tree.map(np.asarray, context.fns.class_scores(params, video, means))
        np.testing.assert_allclose(found[name], scores, atol=1e-5)

    assert classification(dataclasses.replace(context, classes=None)) == {}
    unlabelled = read_classes(written(tmp_path / "classes.json", videos={}))
    with pytest.raises(
        ValueError, match=r"1 of 5 .* 'test-000004' has 'elephant', expected one of"
    ):
        classification(dataclasses.replace(context, classes=unlabelled))


def test_accuracy_by_hand():
    scores = np.array(
        [[3, 1, 1, 0, 0, 0], [1, 2, 2, 0, 0, 0], [9, 8, 7, 6, 5, 4], [5, 0, 1, 2, 3, 4]]
    )
    # Ranks: 1; 1.5 for a tie; 6; 1.
    found = accuracy(scores, np.array([0, 1, 5, 0]))
    assert found == {"top1": 50.0, "top5": 75.0, "mean_per_class": pytest.approx(100 / 3)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": None}, 'no "classes"'),
        ({"classes": {}}, "no class"),
        ({"classes": {"a": []}}, "class 'a' has"),
        ({"classes": {"a": "x", "b": ["A"]}}, "'A' is a name of two classes"),
        ({"templates": ["a photo"]}, "template 'a photo' has no {}"),
        ({"videos": ["a"]}, '"videos" has to'),
    ],
)
def test_a_file_that_is_none_of_classes_says_why(tmp_path, changes, message):
    path = written(tmp_path / "c.json", **changes)
    with pytest.raises(ValueError, match=message):
        read_classes(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not a file of classes"):
        read_classes(path)


def test_without_templates_the_name_alone_is_the_prompt(tmp_path):
    classes = read_classes(written(tmp_path / "c.json", templates=None, videos=None))
    assert (classes.templates, classes.videos) == (("{}",), {})
    assert classes.names["cat"] == ("cat",)
