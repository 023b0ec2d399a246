"""The folder for the Hugging Face Hub: loaded as its readers do, compared with this package."""

import ast
import collections
import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from mova_jax import convert
from mova_jax.data.sentences import split_sentences
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.export import hub, parity
from mova_jax.export.backends import open_model
from mova_jax.export.export import export
from mova_jax.weights.files import read_tensors, write_safetensors
from tests import tiny
from tests.export.test_parts import WORDS, bundle

CONTEXT = 90  # tokens; a part has at most 77
METRICS = {"test/gallery": 8.0} | {
    f"test/{score}/{way}/r{k}": float(10 * k + n)
    for n, (score, way) in enumerate((s, w) for s in ("global", "blend") for w in ("t2v", "v2t"))
    for k in (1, 5, 10)
}
CAPTIONS = [
    "A red circle&#39;s “gone”. It stops! Then <|endoftext|> goes.",
    " ".join(["A red circle moves left and stops."] * 30),  # more than the context
    "a circle " * 60 + ". It stops.",  # a sentence that is longer than a part
]

USED_ALONE = """
import sys
sys.modules |= dict.fromkeys(("jax", "flax", "mova_jax", "tests"))
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer
folder, given, made = sys.argv[1:]
remote = {"trust_remote_code": True}
assert AutoConfig.from_pretrained(folder, **remote).model_type == "mova"
tokenizer = AutoTokenizer.from_pretrained(folder, **remote)
images = AutoImageProcessor.from_pretrained(folder, **remote)
processor = AutoProcessor.from_pretrained(folder, **remote)
assert type(processor.tokenizer) is type(tokenizer)
model = AutoModel.from_pretrained(folder, **remote).eval()
inputs = torch.load(given, weights_only=False)
texts = model.tokenise(tokenizer, inputs["captions"])
frames = inputs["frames"]
floats = torch.stack([images(list(v), return_tensors="pt")["pixel_values"] for v in frames])
with torch.no_grad():
    by_bytes = model(**texts, pixel_values=frames.movedim(-1, 2), frame_mask=inputs["frame_mask"])
    by_floats = model(**texts, pixel_values=floats, frame_mask=inputs["frame_mask"])
    torch.testing.assert_close(by_floats.scores, by_bytes.scores)
    assert by_bytes.scores.std() > 1e-3
    model.save_pretrained(made + ".model")
    again = AutoModel.from_pretrained(made + ".model", **remote).eval()
    scores = [one(**texts, pixel_values=floats).scores for one in (model, again)]
    assert torch.equal(*scores)
    assert model(**texts).scores is None and model(pixel_values=floats).video_embeds is not None
torch.save({**texts, **by_bytes}, made)
"""


@pytest.fixture(scope="module")
def made():
    sizes = {"model__text__context": CONTEXT, "data__token_buckets": (CONTEXT,)}
    return dataclasses.replace(
        bundle("part_masks_ordered", **sizes),
        training={"steps": 1, "data": "storyboard"},
        metrics=METRICS,
        licence="mit",
    )


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    """With the export for PyTorch beside it."""
    return export(made, tmp_path_factory.mktemp("out"), ["pytorch", "hub"])[1]


def test_transformers_uses_the_folder_alone(folder, tmp_path):
    """Tokens, embeddings and scores of a process without this package are ours."""
    in_jax = open_model(f"jax:{folder}")
    drawn = parity.draw_inputs(in_jax.sizes, videos=len(CAPTIONS), frames=3)
    inputs = {n: torch.from_numpy(getattr(drawn, n)) for n in ("frames", "frame_mask")}
    torch.save(inputs | {"captions": CAPTIONS}, tmp_path / "in.pt")
    (tmp_path / "script.py").write_text(USED_ALONE)
    arguments = [tmp_path / "script.py", folder, tmp_path / "in.pt", tmp_path / "out.pt"]
    subprocess.run([sys.executable, "-I", *arguments], check=True, cwd=tmp_path)
    got = torch.load(tmp_path / "out.pt", weights_only=True)
    got = {name: value.numpy() for name, value in got.items()}

    words = Tokenizer(WORDS, CONTEXT)
    for row, caption in enumerate(CAPTIONS):
        mask = got["attention_mask"][row].astype(bool)
        np.testing.assert_array_equal(got["input_ids"][row][mask], words.encode(caption).ids)
        ours = words.encode_parts(split_sentences(caption), 8)
        masks = got["part_attention_mask"][row].astype(bool)
        assert masks.any(-1).sum() == len(ours)
        for part, mask, ids in zip(got["part_input_ids"][row], masks, ours, strict=False):
            np.testing.assert_array_equal(part[mask], ids)
    names = ("input_ids", "attention_mask", "part_input_ids", "part_attention_mask")
    tokens, mask, part_tokens, part_mask = (got[name] for name in names)
    expected = in_jax.run(
        drawn._replace(
            tokens=tokens.astype(np.int32),
            token_mask=mask.astype(bool),
            part_tokens=part_tokens.astype(np.int32),
            part_token_mask=part_mask.astype(bool),
        )
    )
    pairs = {"scores": "blend", "global_scores": "global", "modular_scores": "modular"}
    pairs |= {"frame_embeds": "zv", "video_embeds": "video", "part_embeds": "part zt"}
    for name, output in pairs.items():
        tiny.assert_near(got[name], expected[output], 1e-5)


def test_verify_runs_the_code_of_this_version_only_unless_told_to_trust(folder, tmp_path, capsys):
    assert convert.main(["verify", str(folder.parent / "pytorch"), str(folder)]) == convert.DONE
    assert "blend" in capsys.readouterr().out
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    code = other / hub.MODELING
    code.write_text(f"{code.read_text()}\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    arguments = ["verify", str(folder.parent / "pytorch"), str(other)]
    assert convert.main(arguments) == convert.FAILED
    assert "--trust_remote_code" in capsys.readouterr().err and not (tmp_path / "ran").exists()
    assert convert.main([*arguments, "--trust_remote_code"]) == convert.DONE
    assert (tmp_path / "ran").exists()


def test_verify_runs_no_other_file_of_the_folder(folder, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = json.loads((other / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.MovaConfig", "AutoModel": "evil.MovaModel"}
    (other / "config.json").write_text(json.dumps(config))
    assert convert.main(["verify", str(folder.parent / "pytorch"), str(other)]) == convert.FAILED
    assert "auto_map" in capsys.readouterr().err and not (tmp_path / "ran").exists()


def test_verify_names_weights_that_are_missing(folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    tensors = dict(read_tensors(folder / "model.safetensors"))
    tensors["colour"] = tensors.pop("log_sharpness")
    write_safetensors(tensors, copy / "model.safetensors", {"format": "pt"})
    assert convert.main(["verify", str(folder.parent / "pytorch"), str(copy)]) == convert.FAILED
    errors = capsys.readouterr().err
    assert "missing keys ['log_sharpness']" in errors and "unexpected keys ['colour']" in errors


def test_the_code_is_one_file_in_which_a_name_has_one_meaning(folder):
    code = folder / hub.MODELING
    assert not get_relative_imports(code)
    # NumPy and safetensors come with transformers, which does not ask for ftfy before it is used.
    needed = set(get_imports(code)) - set(sys.stdlib_module_names)
    assert needed == {"torch", "transformers", "numpy", "safetensors"}
    defined = collections.Counter()
    for node in ast.parse(code.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined[node.name] += 1
        elif isinstance(node, ast.Assign):
            targets = ast.walk(node.targets[0])
            defined.update(name.id for name in targets if isinstance(name, ast.Name))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined.update({alias.asname or alias.name for alias in node.names})
    assert {"MovaModel", "Mova", "merge_parts", "ordered_score", "STD"} <= defined.keys()
    assert set(defined.values()) == {1}


def test_the_card_has_the_metrics_in_the_form_of_the_hub(folder):
    card = ModelCard((folder / "README.md").read_text())
    assert card.data.license == "mit" and card.data.library_name == "transformers"
    found = {result.metric_name: result for result in card.data.eval_results}
    assert len(found) == len(METRICS) - 1
    one = found["V2T R@5 in percent, blend score, gallery 8"]
    assert one.metric_value == METRICS["test/blend/v2t/r5"]
    assert (one.dataset_type, one.dataset_split) == ("storyboard", "test")


def test_no_path_of_this_machine_is_in_the_folder(folder, made):
    for file in folder.iterdir():
        if file.suffix in (".json", ".py", ".md"):
            assert str(made.tokenizer.parent.parent) not in file.read_text(), file
    assert json.loads((folder / "config.json").read_text())["format"] == "mova_jax"
