"""Tests of TFDS data sets as sources: several layouts, all written by TFDS without TensorFlow."""

import functools
import io
import itertools
import json
import pickle
import subprocess
import sys

import grain
import numpy as np
import pytest
from PIL import Image

from mova_jax.data.images import encode_jpeg, encode_ppm
from mova_jax.data.pipeline.batching import LoadExample, PipelineSettings
from mova_jax.data.shards import Caption, ShardError, open_split
from mova_jax.data.storyboard.generate import ensure
from mova_jax.data.tfds.source import open_tfds, tfds_splits
from mova_jax.data.tokenizer import Tokenizer, train_tokenizer

_NUMBERS = itertools.count()


def _pixels(count=3, height=5, width=7, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def _encoded(image, form):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, form)
    return stream.getvalue()


@pytest.fixture
def make(tmp_path):
    """`make(features, examples)`: a data set as TFDS writes it, and its name for `open_tfds`."""
    import tensorflow_datasets as tfds

    def write(features, *examples):
        class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            name = f"made{next(_NUMBERS)}"
            VERSION = tfds.core.Version("1.2.3")
            code_path = None  # see tfds_builder.py

            def _info(self):
                made = tfds.features.FeaturesDict(features)
                return tfds.core.DatasetInfo(builder=self, features=made, disable_shuffling=True)

            def _split_generators(self, dl_manager):
                return {"train": enumerate(examples), "extra": enumerate(examples[:1])}

            def _generate_examples(self):
                raise NotImplementedError

        builder = Made(data_dir=tmp_path, file_format="array_record")
        builder.download_and_prepare()
        return builder.data_path, f"tfds:{Made.name}/1.2.3?data_dir={tmp_path}"

    return write


def _features():
    from tensorflow_datasets import features

    return features


@pytest.fixture
def make_plain(make):
    """`make_plain(*examples)` with `frames` and `captions`, the latter "A cat." if not given."""

    def write(*examples, **features):
        tfds = _features()
        features = {"frames": tfds.Sequence(tfds.Image()), "captions": tfds.Text()} | features
        return make(features, *({"captions": "A cat."} | example for example in examples))

    return write


@pytest.fixture
def png():
    return _encoded(_pixels()[0], "PNG")


def test_jpeg_frames_stay_and_png_becomes_pixels(make_plain):
    images = _pixels()
    jpegs = [encode_jpeg(image) for image in images]
    frames = [jpegs[0], jpegs[1], _encoded(images[2], "PNG")]
    _, name = make_plain({"frames": frames, "captions": "A  cat\0sits. ☂"}, {"frames": frames[2:]})
    assert tfds_splits(name) == {"train": 2, "extra": 1}
    source = open_tfds(name, "train")
    record, second = source
    assert tuple(record.frames) == (jpegs[0], jpegs[1], encode_ppm(images[2]))
    assert record.captions == (Caption("A cat sits. ☂"),) and record.alternatives == ()
    assert (record.height, record.width, record.id) == (5, 7, "train/0")
    assert record.timestamps.tolist() == [0, 1, 2] and record.timestamps.dtype == np.float32
    assert record.duration == 3.0 and record.source == name
    assert (tuple(second.frames), second.duration) == ((encode_ppm(images[2]),), 1.0)
    faster = open_tfds(f"{name}&fps=4", "train[1:]")
    assert len(faster) == 1 and faster[0].duration == 0.25
    assert open_tfds(f"{name}&fps=4", "train")[0].timestamps.tolist() == [0, 0.25, 0.5]
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("form", ["plain", "zlib", "of any size", "sequence"])
def test_pixels_become_ppm(make_plain, form):
    tfds, images = _features(), _pixels()
    shape, encoding = {
        "plain": ((None, 5, 7, 3), "none"),
        "zlib": ((3, 5, 7, 3), "zlib"),
        "of any size": ((None, None, None, 3), "bytes"),
        "sequence": ((5, 7, 3), "bytes"),
    }[form]
    feature = tfds.Tensor(shape=shape, dtype=np.uint8, encoding=encoding)
    feature = tfds.Sequence(feature) if form == "sequence" else feature
    _, name = make_plain({"frames": images}, frames=feature)
    record = open_tfds(name, "train")[0]
    assert tuple(record.frames) == tuple(map(encode_ppm, images))
    assert (record.height, record.width, record.caption) == (5, 7, "A cat.")


def test_every_field_can_be_named(make):
    tfds, images = _features(), _pixels(2)
    jpegs = [encode_jpeg(image) for image in images]
    _, name = make(
        {
            "clip": {
                "pictures": tfds.Tensor(shape=(None,), dtype=np.bytes_),
                "when": tfds.Sequence(np.float64),
                "seconds": np.float32,
                "number": np.int64,
            },
            "thumbnail": tfds.Image(),
            "events": tfds.Sequence({"what": tfds.Text(), "from": np.float32, "to": np.float32}),
            "summaries": tfds.Sequence(tfds.Text()),
            "title": tfds.Text(),
        },
        {
            "clip": {"pictures": jpegs, "when": [0.5, 2.0], "seconds": 9.0, "number": 42},
            "thumbnail": jpegs[0],
            "events": {"what": ["One.", "", "Two."], "from": [0, 1, 5], "to": [2, 2, 4]},
            "summaries": ["Short.", " "],
            "title": "Title",
        },
    )
    fields = (
        "&frames=clip/pictures&timestamps=clip/when&duration=clip/seconds&id=clip/number"
        "&captions=events/what&start=events/from&end=events%2Fto&alternatives=summaries"
    )
    record = open_tfds(name + fields, "train")[0]
    assert tuple(record.frames) == tuple(jpegs) and record.timestamps.tolist() == [0.5, 2.0]
    assert (record.id, record.duration) == ("42", 9.0)
    # A time that ends before it starts is no time.
    assert record.captions == (Caption("One.", 0, 2), Caption("Two."))
    assert record.alternatives == ("Short.",)
    still = open_tfds(f"{name}&frames=thumbnail&alternatives=summaries", "train")[0]
    assert still.frames == (jpegs[0],) and still.captions == (Caption("Short."),)


def test_timed_captions_are_found_by_their_names(make_plain, png):
    tfds = _features()
    captions = [{"text": "One.", "start": 0.5, "end": 2}]
    ours = {"frames": [png] * 2, "captions": captions, "id": "v_1", "timestamps": [0.0, 0.25]}
    _, name = make_plain(
        ours | {"label": "b", "box": tfds.BBox(0.0, 0.0, 1.0, 1.0)},
        captions=tfds.Sequence({"text": tfds.Text(), "start": np.float32, "end": np.int32}),
        id=tfds.Text(),
        timestamps=tfds.Sequence(np.float32),
        label=tfds.ClassLabel(names=["a", "b"]),
        box=tfds.BBoxFeature(),
    )
    record = open_tfds(name, "train")[0]
    assert record.captions == (Caption("One.", 0.5, 2),)
    assert (record.id, record.duration) == ("v_1", 0.5)


def test_video_features_are_read_though_tfds_needs_tensorflow_for_them(make_plain):
    """On disk a Video is what a Sequence of Image is; only features.json differs."""
    images = _pixels()
    folder, name = make_plain({"frames": [_encoded(image, "PNG") for image in images]})
    features = json.loads((folder / "features.json").read_text())
    shape = {"dimensions": ["-1", "-1", "-1", "3"]}
    features["featuresDict"]["features"]["frames"] = {
        "pythonClassName": "tensorflow_datasets.core.features.video_feature.Video",
        "video": {"dtype": "uint8", "encodingFormat": "png", "shape": shape},
    }
    (folder / "features.json").write_text(json.dumps(features))
    assert tuple(open_tfds(name, "train")[0].frames) == tuple(map(encode_ppm, images))
    assert open_tfds(f"tfds:{folder}", "train")[0].captions == (Caption("A cat."),)


def test_features_in_the_older_form_are_read(make_plain):
    """Up to 4.5, TFDS wrote `type` and `content`."""
    images = _pixels()
    pngs = [_encoded(image, "PNG") for image in images]
    folder, name = make_plain({"frames": pngs, "n": 1}, n=np.int32)

    def feature(kind, **content):
        return {"type": f"tensorflow_datasets.core.features.{kind}", "content": content}

    shape = [None, None, 3]
    image = feature("image_feature.Image", shape=shape, dtype="uint8", encoding_format="png")
    older = feature(
        "features_dict.FeaturesDict",
        n=feature("feature.Tensor", shape=[], dtype="int32", encoding="none"),
        captions=feature("text_feature.Text", use_encoder=False),
        frames=feature("sequence_feature.Sequence", feature=image, length=None),
    )
    (folder / "features.json").write_text(json.dumps(older))
    assert tuple(open_tfds(name, "train")[0].frames) == tuple(map(encode_ppm, images))


def test_own_shards_are_read_as_they_are(tmp_path):
    folder = ensure(tmp_path / "s", 0, {"train": 2}, 0, image_size=32, vocab_size=514)
    name, ours = f"tfds:{folder}", open_split(folder, "train")
    for index, record in enumerate(open_tfds(name, "train")):
        same = {**vars(record), "timestamps": list(record.timestamps)}
        assert same == {**vars(ours[index]), "timestamps": list(ours[index].timestamps)}
        assert record.truth
    assert open_tfds(f"{name}?fps=2", "train")[1].timestamps[1] == 0.5


def test_it_is_a_grain_source_that_can_be_pickled(make_plain, png):
    _, name = make_plain(*({"frames": [png], "captions": f"Video {i}."} for i in range(5)))
    source = pickle.loads(pickle.dumps(open_tfds(name, "train")))
    assert [source[i].caption for i in (4, 0)] == ["Video 4.", "Video 0."]
    with pytest.raises(IndexError):
        source[-1]
    read = grain.MapDataset.source(source).map(lambda record: record.caption)
    assert list(read) == [f"Video {i}." for i in range(5)]


def test_threads_read_at_once(make_plain, png):
    """In a fresh process, in which nothing was read before."""
    _, name = make_plain({"frames": [png]})
    program = f"""
from concurrent.futures import ThreadPoolExecutor
from mova_jax.data.sources import open_source
source = open_source({name!r}, "train")
with ThreadPoolExecutor(8) as threads:
    assert {{r.caption for r in threads.map(source.__getitem__, [0] * 16)}} == {{"A cat."}}
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)  # or a deadlock


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("clips?frame=x&fps=0&id&fps=2&start=a&start=b",
         ["does not start with tfds:", "no key 'frame'", "id has no value", "start is given twice",
          "fps is given twice", "Write tfds:NAME"]),
        ("tfds:a b", ["neither NAME"]),
        ("tfds:/x?data_dir=/y&fps=a", ["there is a folder", "positive number, got 'a'"]),
        ("tfds:x?fps=1&timestamps=t", ["fps or timestamps"]),
        ("tfds:nothing?data_dir=/nowhere", ["/nowhere/nothing, where there is no data set"]),
        ("tfds:/nowhere", ["has no dataset_info.json"]),
    ],
)  # fmt: skip
def test_names_are_refused_with_all_that_is_wrong(name, messages):
    with pytest.raises(ShardError) as caught:
        open_tfds(name, "train")
    assert all(message in str(caught.value) for message in messages), caught.value


def test_a_version_is_chosen_or_named(make_plain, png, tmp_path):
    folder, name = make_plain({"frames": [png]})
    plain = name.replace("/1.2.3", "")
    for spelled in (plain, name.replace("/1.2.3", ":1.2.3")):
        assert open_tfds(spelled, "train")[0].caption == "A cat."
    with pytest.raises(ShardError, match=r"where there is 1.2.3; name one"):
        open_tfds(name.replace("1.2.3", "2.0.0"), "train")
    folder.rename(tmp_path / "aside")
    folder.parent.joinpath("config").mkdir()
    (tmp_path / "aside").rename(folder.parent / "config" / "1.2.3")
    assert open_tfds(plain, "train")[0].caption == "A cat."
    assert open_tfds(name.replace("/1.2.3", "/config:1.2.3"), "train")[0].caption == "A cat."


def test_features_are_refused_with_all_that_is_wrong(make):
    tfds = _features()
    _, name = make(
        {"a": tfds.Text(), "b": tfds.Text(), "depth": tfds.Tensor(shape=(2, 2), dtype=np.float32)},
        {"a": "x", "b": "y", "depth": np.zeros((2, 2), np.float32)},
    )
    with pytest.raises(ShardError) as caught:
        open_tfds(f"{name}&start=depth&id=c", "train")
    for message in (
        "no feature 'frames' is an Image, a Sequence",
        "no feature 'captions' is a Text or a Sequence",
        "start=depth is Tensor float32[2, 2], not a number of seconds",
        "id=c: there is no such feature",
        "Its features: a: Text; b: Text; depth: Tensor float32[2, 2].",
        "?frames=FEATURE&captions=FEATURE",
    ):
        assert message in str(caught.value), caught.value


def test_what_is_not_there_or_not_at_random_is_refused(make_plain, png):
    folder, name = make_plain({"frames": [png]})
    with pytest.raises(ShardError, match=r"Unknown split 'val'.*The splits are: extra, train"):
        open_tfds(name, "val")
    [file] = folder.glob("*-train.*")
    file.rename(file.with_suffix(".gone"))
    with pytest.raises(ShardError, match=r"its file .*-train.array_record.* is not there"):
        open_tfds(name, "train")
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ShardError, match=r"stored as tfrecord.*tfds build --file_format=array_rec"):
        open_tfds(name, "extra")
    info.write_text("{")
    with pytest.raises(ShardError, match="no readable metadata"):
        tfds_splits(name)


def test_records_that_are_no_videos_with_captions_are_named(make_plain, png):
    tfds = _features()
    deep = io.BytesIO()
    Image.fromarray(np.zeros((2, 2), np.uint16)).save(deep, "PNG")
    good = {"frames": [png], "timestamps": [0.0]}
    _, name = make_plain(
        good,
        {**good, "captions": " "},
        {**good, "frames": []},
        {**good, "frames": [b"none"]},
        {**good, "timestamps": [0.0, 1.0]},
        {**good, "frames": [png, png], "timestamps": [1.0, 0.0]},
        {"frames": [png, png[:60], deep.getvalue()], "timestamps": [0, 1, 2]},
        timestamps=tfds.Sequence(np.float32),
    )
    source = open_tfds(name, "train")
    assert source[0].caption == "A cat."
    for index, message in enumerate(
        ["no caption", "no frames", "does not open", "1 frames need as many",
         "2 frames need as many"], 1,
    ):  # fmt: skip
        with pytest.raises(ShardError, match=f"Record {index} of split 'train' of .*{message}"):
            source[index]
    record = source[6]
    assert record.frames[0] == encode_ppm(_pixels()[0])
    for index, message in ((1, "does not open"), (2, "pixels of I;16")):
        with pytest.raises(ShardError, match=f"Frame {index} of record 'train/6' of .*{message}"):
            record.frames[index]


def test_training_leaves_out_a_record_whose_frame_is_damaged(make_plain, png, tmp_path):
    """Such frames are read when they are chosen, behind the record itself."""
    _, name = make_plain({"frames": [png, png[:60]]})
    train_tokenizer(["a cat"] * 3, 520, tmp_path / "words")
    source = open_tfds(name, "train")
    make_load = functools.partial(
        LoadExample, source, Tokenizer(tmp_path / "words"), PipelineSettings(2, 5)
    )
    example = make_load(tolerant=True)(0, np.random.default_rng(0))
    assert (example.index, example.frames, len(example.tokens)) == (0, (), 0)
    with pytest.raises(ShardError, match="Frame 1 of record 'train/0'"):
        make_load()(0, np.random.default_rng(0))
