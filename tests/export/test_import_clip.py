"""Imports of CLIP weights by the command, and runs that start from them."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import torch
import transformers

from mova_jax import config as config_lib
from mova_jax import convert
from mova_jax.config.schema import CLIP_MEAN, CLIP_STD
from mova_jax.data.tokenizer import Tokenizer, train_tokenizer
from mova_jax.export import export, import_clip, parity
from mova_jax.export.backends import open_model
from mova_jax.training import run as run_lib
from mova_jax.training.load_model import load_run
from mova_jax.utils.trees import parameter_names
from mova_jax.weights.files import WeightsError, read_tensors
from tests.weights import clips

FULL = ("--config", "configs/base.py:objective=full")  # with mask networks


def make_clip(folder, dim=8):
    """A folder of transformers' CLIPModel with its vocabulary."""
    train_tokenizer(["a red circle moves left"] * 4, 520, folder)
    end = Tokenizer(folder).eot_id
    ids = {"eos_token_id": end, "bos_token_id": end - 1, "pad_token_id": end}
    text = {"vocab_size": end + 1, "max_position_embeddings": 77} | ids
    vision = {"image_size": 16, "patch_size": 8}
    model = clips.random_clip((16, 2, text), (12, 2, vision), projection_dim=dim)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP whose joint embedding is narrower than its text tower."""
    folder = tmp_path_factory.mktemp("clip")
    make_clip(folder)
    return folder


def test_jax_reads_a_clip_as_transformers_does(clip):
    found = parity.compare(open_model(str(clip)), open_model(f"jax:{clip}"))
    assert {difference.output for difference in found} == {"zv", "y", "zt", "logits"}
    assert max(difference.relative for difference in found) <= 1e-5


def test_another_normalisation_of_pixels_goes_all_the_way(clip, tmp_path):
    """From a CLIP's folder through import and exports; each is given pictures, not pixels."""
    other = tmp_path / "other"
    shutil.copytree(clip, other)
    pixels = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]}
    (other / "preprocessor_config.json").write_text(json.dumps(pixels))
    inputs = parity.draw_inputs(open_model(str(clip)).sizes)
    zv = open_model(str(other)).run(inputs)["zv"]
    assert np.abs(zv - open_model(str(clip)).run(inputs)["zv"]).max() > 0.01 * np.abs(zv).max()
    assert convert.main(["verify", str(other), f"jax:{other}"]) == convert.DONE
    base = config_lib.load("configs/base.py")
    same = {"model.text.context": 77, "data.token_buckets": (77,)}
    made, _ = import_clip.import_clip(other, base, changes=same)
    assert made.config.model.vision.mean == (0.5, 0.4, 0.3)
    for folder in export.export(made, tmp_path / "out", ["pytorch", "huggingface", "onnx"]):
        assert convert.main(["verify", str(other), str(folder)]) == convert.DONE
    assert convert.main(["verify", str(other), f"jax:{tmp_path / 'out' / 'pytorch'}"]) == 0
    saved = json.loads((tmp_path / "out" / "huggingface" / "preprocessor_config.json").read_text())
    assert {name: saved[name] for name in pixels} == pixels
    processor = transformers.CLIPProcessor.from_pretrained(tmp_path / "out" / "huggingface")
    assert list(processor.image_processor.image_mean) == pixels["image_mean"]


def test_import_makes_a_model_of_clips_sizes_for_248_tokens(clip, tmp_path, capsys):
    command = ["import", str(clip), str(tmp_path / "out"), *FULL]
    assert convert.main(command) == convert.DONE
    report = capsys.readouterr().out
    assert "text positions stretched from 77 to 248" in report and "tmn (" in report
    folder = tmp_path / "out" / "pytorch"
    model = json.loads((folder / "config.json").read_text())["model"]
    sizes = {"image_size": 16, "patch_size": 8, "width": 12, "layers": 2, "heads": 2}
    assert model["vision"] == sizes | {"mean": list(CLIP_MEAN), "std": list(CLIP_STD)}
    assert model["text"]["context"] == 248 and model["text"]["heads"] == 2
    source, made = read_tensors(clip), read_tensors(folder)
    np.testing.assert_array_equal(
        made["text.token_embedding.weight"],
        source["text_model.embeddings.token_embedding.weight"],
    )
    np.testing.assert_array_equal(
        made["text.positions"][:20],
        source["text_model.embeddings.position_embedding.weight"][:20],
    )
    # PyTorch and JAX compute the same with it.
    found = parity.compare(open_model(f"jax:{folder}"), open_model(str(folder)))
    assert len(found) > 10 and max(difference.relative for difference in found) <= 1e-5


@pytest.mark.parametrize(("layout", "dim"), [("long_clip", 8), ("smartclip", 16)])
def test_import_keeps_frozen_positions_activation_and_bias(layout, dim, tmp_path, capsys):
    """Long-CLIP's first positions stay frozen, SmartCLIP's mask network has no bias."""
    w = make_clip(tmp_path, dim).state_dict()
    torch.save(getattr(clips, layout)(w), tmp_path / "weights.pt")
    args = ["import", str(tmp_path / "weights.pt"), str(tmp_path / "out"), *FULL]
    assert convert.main([*args, "--set", "model.text.context=78"]) == convert.FAILED
    assert "78" in capsys.readouterr().err
    assert convert.main(args) == convert.DONE
    model = json.loads((tmp_path / "out" / "pytorch" / "config.json").read_text())["model"]
    assert model["text"]["frozen_positions"] == 20 and model["activation"] == "quick_gelu"
    assert model["masks"]["init_bias"] == (0.0 if layout == "smartclip" else 2.0)
    made = read_tensors(tmp_path / "out" / "pytorch")
    table = w["text_model.embeddings.position_embedding.weight"].numpy()
    np.testing.assert_array_equal(made["text.positions_frozen"], table[:20])
    assert made["text.positions"].shape == (228, 16)
    if layout == "smartclip":
        np.testing.assert_array_equal(made["cmn.out.weight"], np.eye(16))


def test_import_without_a_vocabulary_says_where_to_put_it(clip, tmp_path, capsys):
    (tmp_path / "model.safetensors").write_bytes((clip / "model.safetensors").read_bytes())
    source = str(tmp_path / "model.safetensors")
    assert convert.main(["import", source, str(tmp_path / "out")]) == convert.FAILED
    assert "vocab.json" in capsys.readouterr().err
    # With a vocabulary, but without a config.json, the activation is not known.
    args = ["import", source, str(tmp_path / "out"), "--tokenizer", str(clip)]
    assert convert.main(args) == convert.FAILED
    assert "model.activation=quick_gelu" in capsys.readouterr().err
    assert convert.main([*args, "--set", "model.activation=quick_gelu"]) == convert.DONE


def config(clip, cache, **changes):
    """A run with the sizes of `clip` on the embedded data."""
    from tests.training.test_run import config as run_config

    sizes = {
        "model__vision__image_size": 16,
        "model__vision__patch_size": 8,
        "model__vision__layers": 2,
        "model__text__layers": 2,
        "model__text__context": 248,
        "data__token_buckets": (248,),
        "model__activation": "quick_gelu",
        "train__steps": 2,
        "optim__warmup_steps": 0,
        "train__image_share": 0.0,
        "train__checkpoint_every": 1,
    }
    made = run_config(cache, **(sizes | changes))
    return dataclasses.replace(made, init_from=str(clip))


def test_a_run_starts_from_the_weights_with_their_vocabulary(clip, tmp_path, capsys):
    made = config(clip, tmp_path / "cache", optim__groups=((".*", 0.0),))
    assert run_lib.run(made, tmp_path / "run") == 0
    assert "text positions stretched from 77 to 248" in capsys.readouterr().out
    run = load_run(tmp_path / "run")
    assert run.config.model.text.vocab_size == Tokenizer(clip).vocab_size
    # Every parameter was frozen, so the run ends with the weights that it started from.
    params = parameter_names(jax.device_get(run.params))
    source = read_tensors(clip)
    np.testing.assert_array_equal(
        params["text/token_embedding"], source["text_model.embeddings.token_embedding.weight"]
    )
    np.testing.assert_array_equal(
        params["vision/projection/kernel"].T, source["visual_projection.weight"]
    )
    # They are read once: a complete run does not need them.
    clip.rename(clip.with_name("moved"))
    try:
        capsys.readouterr()
        assert run_lib.run(made, tmp_path / "run") == 0
        assert "is complete" in capsys.readouterr().out
        with pytest.raises(WeightsError, match="expected the vocabulary"):
            run_lib.run(made, tmp_path / "another")
    finally:
        clip.with_name("moved").rename(clip)


def test_weights_that_do_not_fit_are_listed_and_the_workdir_stays_free(clip, tmp_path):
    made = config(clip, tmp_path / "cache", model__embed_dim=4, model__activation="gelu")
    with pytest.raises(WeightsError) as error:
        run_lib.run(made, tmp_path / "run")
    text = str(error.value)
    assert "visual_projection.weight" in text and "text_projection.weight" in text
    assert "quick_gelu" in text
    assert not (tmp_path / "run" / "config.json").exists()
