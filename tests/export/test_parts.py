"""Models that score captions by their parts: exported, verified, and searched with."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mova_jax import convert
from mova_jax.data import sentences
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.export import parity
from mova_jax.export.backends import open_model
from mova_jax.export.bundle import Bundle
from mova_jax.export.export import export
from mova_jax.models.build import make_model_spec
from mova_jax.utils.trees import parameter_shapes
from mova_jax.weights.files import read_tensors, write_safetensors
from mova_jax.weights.load import load_weights
from tests import tiny

WORDS = Path(__file__).resolve().parent.parent / "golden" / "0.1.0" / "checkpoints" / "tokenizer"
FORMS = ["parts", "part_concepts", "part_masks_ordered"]


def bundle(form, **changes):
    """An untrained model with the golden run's vocabulary."""
    changes |= {"losses__hard_pairs": 2} if form.startswith("part_masks") else {}
    changes["model__text__vocab_size"] = Tokenizer(WORDS, tiny.L).vocab_size
    config = tiny.config(form, **changes)
    shapes = parameter_shapes(make_model_spec(config.model).abstract_params)
    rng = np.random.default_rng(0)
    params = {name: rng.normal(scale=0.3, size=s).astype(np.float32) for name, s in shapes.items()}
    params |= {name: np.float32(np.log(5.0)) for name in shapes if name.startswith("log")}
    return Bundle(params, config, WORDS, 0.5, {"steps": 1}, {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The export of a form, made once."""

    @functools.cache
    def made(form):
        return export(bundle(form), tmp_path_factory.mktemp(form), ["pytorch"])[0]

    return made


def ranks(scores):
    """Of every query in both directions, as `benchmarks/exported_retrieval.py` has them."""
    own = np.diag(scores)
    return np.concatenate([(scores > own).sum(0), (scores.T > own).sum(0)])


@pytest.mark.parametrize("form", FORMS)
def test_every_query_has_the_same_rank_in_pytorch(folder, form):
    in_jax, in_torch = (open_model(f"{prefix}{folder(form)}") for prefix in ("jax:", ""))
    found = parity.compare(in_jax, in_torch, videos=24)
    assert {"part zt", "sharpness", "modular", "timeline"} <= {one.output for one in found}
    assert max(one.relative for one in found) <= 1e-5
    inputs = parity.draw_inputs(in_jax.sizes, videos=24)
    ours, theirs = in_jax.run(inputs), in_torch.run(inputs)
    assert len(np.unique(ranks(ours["modular"]))) > 5
    for name in ("global", "modular", "blend"):
        np.testing.assert_array_equal(ranks(ours[name]), ranks(theirs[name]))


@pytest.mark.parametrize("change", [{"parts": 0}, {"score_order": 0.0}, {"score_pool": "max"}])
def test_verify_finds_another_way_to_score_parts(folder, tmp_path, capsys, change):
    source = folder("part_masks_ordered" if "score_order" in change else "parts")
    copy = tmp_path / "copy"
    copy.mkdir()
    write_safetensors(read_tensors(source), copy / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | change))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).write_bytes((source / name).read_bytes())
    arguments = ["verify", f"jax:{source}", str(copy), "--videos", "24"]
    assert convert.main(arguments) == convert.FAILED
    assert "part zt" in capsys.readouterr().err or "parts" not in change


def test_inputs_have_parts_of_all_lengths():
    sizes = parity.Sizes(image_size=4, context=100, vocab_size=7, end=3)
    tokens, mask = parity.draw_inputs(sizes, videos=4, frames=2)[4:]
    assert tokens.shape == mask.shape == (4, 3, 77)  # a part has at most 77 tokens
    assert mask.any(-1).sum(-1).tolist() == [3, 1, 2, 3]
    ends = (mask & (tokens == 3)).sum(-1)
    np.testing.assert_array_equal(ends, mask.any(-1))
    assert (tokens[~mask] == 3).all()


def test_the_example_of_the_card_runs_without_this_package(folder, tmp_path):
    """Sentences become parts by the rule in the folder, with the tokens of this package."""
    source = folder("parts")
    text = "A red circle&#39;s gone. It stops! Then <|endoftext|> (e.g. here) it goes."
    script = tmp_path / "script.py"
    card = (source / "README.md").read_text()
    assert (
        "logmeanexp over frames; captions in at most 8 parts |" in card
        and "mask select" not in card
    )
    example = next(block for block in card.split("```python\n") if "split_sentences" in block)
    script.write_text(
        "import sys, torch\n"
        "sys.modules |= dict.fromkeys(('jax', 'flax', 'mova_jax', 'tests'))\n"
        "sys.path.insert(0, '.')\n"
        f"caption = {text!r}\n"
        "from torch_model import Mova\n"
        "model = Mova.from_pretrained('.')\n"
        + example.split("```")[0]
        + "assert text.parts.pooled.shape[:2] == (1, 3)\n"
        + "torch.save((part_tokens, part_mask), sys.argv[1])\n"
    )
    made = tmp_path / "made.pt"
    subprocess.run([sys.executable, "-I", script, made], check=True, cwd=source)
    tokens, mask = torch.load(made, weights_only=True)
    ours = Tokenizer(WORDS, tiny.L).encode_parts(sentences.split_sentences(text), 8)
    assert [row[seen].tolist() for row, seen in zip(tokens, mask, strict=True)] == [
        ids.tolist() for ids in ours
    ]


def test_a_model_without_sharpness_leaves_it_to_the_start(folder, tmp_path):
    source = folder("parts")
    tensors = dict(read_tensors(source))
    del tensors["log_sharpness"]
    write_safetensors(tensors, tmp_path / "model.safetensors", {})
    like = {name: x.shape for name, x in bundle("parts").params.items()}
    ours, report = load_weights(tmp_path, like, bundle("parts").config.model)
    assert report.initial == ["log_sharpness"] and set(like) - set(ours) == {"log_sharpness"}
