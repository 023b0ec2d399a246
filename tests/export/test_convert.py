"""Exports by the command: every format against the run that it was made from."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mova_jax import convert
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.export import bundle, export, model_card, parity
from mova_jax.export.backends import open_model
from mova_jax.training.load_model import load_run
from mova_jax.weights.files import read_tensors, write_safetensors

RUN = Path(__file__).resolve().parent.parent / "golden" / "0.1.0"
METRICS = {
    "test/gallery": 8.0,
    **{
        f"test/{score}/{way}/{figure}": 12.5
        for score in ("global", "modular", "blend")
        for way in ("t2v", "v2t")
        for figure in ("r1", "r5", "r10")
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run of an earlier version, with metrics."""
    workdir = tmp_path_factory.mktemp("run") / "base"
    shutil.copytree(RUN, workdir)
    (workdir / "metrics.jsonl").write_text(json.dumps({"step": 6, **METRICS}) + "\n")
    return workdir


@pytest.fixture(scope="module")
def out(run, tmp_path_factory):
    """Exports of that run, in all formats."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("out")
    args = ["export", str(run), str(folder), "--licence", "cc-by-4.0", "--to", *convert.FORMATS]
    assert convert.main(args) == convert.DONE
    return folder


OUTPUTS = {
    "pytorch": {"zv", "video", "y", "zt", "logits", "global", "modular", "timeline"}
    | {"soft text mask", "soft video mask", "text mask", "video mask"},
    "hub": {"zv", "video", "y", "zt", "global", "modular", "blend", "timeline", "text mask"},
    "huggingface": {"zv", "y", "zt", "logits"},
    "text_encoder": {"y"},
    "onnx": {"zv", "y", "zt"},
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_format_gives_the_outputs_of_the_run(run, out, kind):
    first, second = (open_model(str(path)) for path in (run, out / kind))
    differences = parity.compare(first, second)
    assert {difference.output for difference in differences} >= OUTPUTS[kind]
    for difference in differences:
        assert difference.relative <= 1e-5 and difference.cosine > 1 - 1e-9, difference


def test_jax_to_pytorch_to_jax_is_bit_for_bit(run, out):
    in_jax = open_model(f"jax:{out / 'pytorch'}")
    for difference in parity.compare(open_model(str(run)), in_jax):
        assert difference.absolute == 0.0, difference


def changed_copy(folder, copy, tensors=None, config=None, replace=False):
    """A copy of an export for PyTorch with other tensors, or keys of its config.json, or all."""
    shutil.copytree(folder, copy)
    file = copy / "model.safetensors"
    write_safetensors(read_tensors(file) | (tensors or {}), file, {"format": "pt"})
    values = {} if replace else json.loads((copy / "config.json").read_text())
    values |= config or {}
    (copy / "config.json").write_text(json.dumps(values))
    return str(copy)


def test_verify_names_the_outputs_that_differ_and_fails(run, out, tmp_path, capsys):
    weight = read_tensors(out / "pytorch")["text.projection.weight"] * np.float32(1.01)
    changed = changed_copy(out / "pytorch", tmp_path / "a", {"text.projection.weight": weight})
    assert convert.main(["verify", str(run), changed]) == convert.FAILED
    printed = capsys.readouterr()
    lines = {line.split("  ")[0]: line for line in printed.out.splitlines() if line}
    assert "above 1e-05" in lines["zt"] and "above" not in lines["zv"]
    assert "differs by" in printed.err
    assert convert.main(["verify", str(run), str(out / "pytorch")]) == convert.DONE
    nan = {"modular_logit_scale": np.float32("nan").reshape(())}
    broken = changed_copy(out / "pytorch", tmp_path / "b", nan)
    assert convert.main(["verify", str(run), broken]) == convert.FAILED
    assert "differs by inf" in capsys.readouterr().err


def test_models_of_other_sizes_and_unknown_folders_are_refused(run, out, tmp_path, capsys):
    shutil.copytree(out / "text_encoder", tmp_path / "longer")
    config = tmp_path / "longer" / "config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps(fields | {"model_type": "bert"}))
    for path in (tmp_path / "longer", tmp_path):
        assert convert.main(["verify", str(run), str(path)]) == convert.FAILED
    message = capsys.readouterr().err
    assert "got model_type 'bert'" in message and "expected a run's workdir" in message
    sizes = parity.Sizes(16, 160, 100, 99)
    assert not sizes.agree(sizes._replace(context=77))
    assert not sizes.agree(sizes._replace(image_size=32))
    assert sizes.agree(sizes._replace(image_size=0))


def test_inputs_have_all_lengths_and_one_end_of_text():
    sizes = parity.Sizes(image_size=4, context=12, vocab_size=7, end=3)
    frames, frame_mask, tokens, token_mask, *_ = parity.draw_inputs(sizes, videos=5, frames=2)
    assert frames.shape == (5, 2, 4, 4, 3) and frame_mask.sum() == 9
    assert token_mask.sum(1).tolist() == [2, 4, 7, 9, 12]
    ends = token_mask & (tokens == 3)
    assert (ends.sum(1) == 1).all() and (tokens[~token_mask] == 3).all()
    assert tokens.min() >= 0 and tokens.max() == 6


# -- loaded as users do


def test_the_pytorch_model_needs_torch_and_safetensors_only(out, run, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "missing = ('jax', 'jaxlib', 'flax', 'numpy', 'mova_jax', 'tests')\n"
        "sys.modules |= dict.fromkeys(missing)\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import torch\n"
        "from torch_model import Mova\n"
        "model = Mova.from_pretrained(sys.argv[1])\n"
        "inputs = torch.load(sys.argv[2], weights_only=True)\n"
        "with torch.no_grad():\n"
        "    video = model.encode_video(inputs['frames'], inputs['frame_mask'])\n"
        "    text = model.encode_text(inputs['tokens'], inputs['token_mask'])\n"
        "    torch.save(model.scores(video, text), sys.argv[3])\n"
    )
    opened = open_model(str(run))
    inputs = parity.draw_inputs(opened.sizes, videos=6)
    tensors = {k: torch.from_numpy(v) for k, v in inputs._asdict().items()}
    torch.save(tensors | {"tokens": tensors["tokens"].long()}, tmp_path / "in.pt")
    subprocess.run(
        [sys.executable, "-I", script, out / "pytorch", tmp_path / "in.pt", tmp_path / "out.pt"],
        check=True,
    )
    got, expected = torch.load(tmp_path / "out.pt", weights_only=True), opened.run(inputs)
    for name in ("global", "modular"):
        np.testing.assert_allclose(got[name].numpy(), expected[name], atol=1e-5)
        # Every query finds the same video.
        assert (got[name].numpy().argsort(0) == expected[name].argsort(0)).all()


def test_transformers_loads_model_and_processor_from_the_folder(run, out):
    from transformers import CLIPModel, CLIPProcessor

    folder = out / "huggingface"
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    opened = open_model(str(run))
    inputs = parity.draw_inputs(opened.sizes)
    text = "A red circle moves left. " * 30
    seen = processor(
        images=list(inputs.frames[:, 0]), text=text, truncation=True, return_tensors="pt"
    )
    assert seen["input_ids"].shape == (1, opened.sizes.context)
    with torch.no_grad():
        got = model.get_image_features(pixel_values=seen["pixel_values"])
    got = getattr(got, "pooler_output", got).numpy()
    expected = opened.run(inputs)["zv"][:, 0]
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    # The same words are the same tokens.
    words = Tokenizer(run / "checkpoints" / "tokenizer")
    for text in ("A red circle moves left.", "A <|endoftext|> moves <|startoftext|> left."):
        assert processor(text=text)["input_ids"] == words.encode(text).ids.tolist()


def test_the_text_encoder_takes_long_captions_with_its_own_tokenizer(out):
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = out / "text_encoder"
    encoder, tokenizer = (c.from_pretrained(folder) for c in (CLIPTextModel, CLIPTokenizer))
    ids = tokenizer("word " * 500, truncation=True, padding="max_length", return_tensors="pt")
    states = encoder(ids["input_ids"]).last_hidden_state
    assert states.shape == (1, tokenizer.model_max_length, encoder.config.hidden_size)
    assert tokenizer.model_max_length == 160  # of this run; 248 by default


def test_the_card_has_training_metrics_and_licence(out):
    for kind in OUTPUTS:
        text = (out / kind / "README.md").read_text()
        assert text.startswith("---\nlicense: cc-by-4.0\n") and "## Load it" in text
        assert "| steps | 4 |" in text and "| data | storyboard |" in text
    text = (out / "pytorch" / "README.md").read_text()
    assert "| test | modular | 8 | 12.5 | 12.5 | 12.5 | 12.5 | 12.5 | 12.5 | 12.5 |" in text
    assert "modular" not in (out / "huggingface" / "README.md").read_text().split("## Measured")[1]
    assert "chosen on the validation split" not in text  # nothing of one is in the metrics


def test_a_card_claims_only_what_the_folder_can_do(run):
    made = bundle.bundle_from_run(load_run(run))
    model = dataclasses.replace(made.config.model, global_head="seq_transformer")
    with_head = dataclasses.replace(made, config=dataclasses.replace(made.config, model=model))
    for kind in ("huggingface", "onnx"):
        text = model_card.text_of(kind, with_head)
        assert "Nothing was measured of this part alone." in text and "seq_transformer" in text
    start = dataclasses.replace(made, training={"steps": 0, "started_from": "CLIP"}, metrics={})
    text = model_card.text_of("pytorch", start)
    assert "Nothing was trained yet" in text and "It was trained with" not in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"blend_weight": 99.0}, "blend"), ({"format_version": 9}, "format")],
)
def test_verify_finds_changes_of_config_json(run, out, tmp_path, capsys, change, expected):
    changed = changed_copy(out / "pytorch", tmp_path / "changed", config=change)
    for spec in (changed, f"jax:{changed}"):
        assert convert.main(["verify", str(run), spec]) == convert.FAILED
        assert expected in capsys.readouterr().err


def test_exports_of_former_formats_are_verified(run, out, tmp_path):
    config = json.loads((out / "pytorch" / "config.json").read_text())
    del config["parts"], config["score_order"], config["model"]["sharpness"]
    config["format_version"] = 2
    format_2 = changed_copy(out / "pytorch", tmp_path / "2", config=config, replace=True)
    heads = config["model"]["text"]["heads"]
    config["model"]["tmn"] |= {"heads": heads, "token_layers": 0}
    config["model"]["cmn"] |= {"heads": heads}
    config["model"]["masks"] |= {"temperature": 1.0}
    config |= {"format_version": 1, "losses": {"pool": "joint", "pool_scale": 10.0}}
    config["model"] |= {"head_layers": 4}
    format_1 = changed_copy(out / "pytorch", tmp_path / "1", config=config, replace=True)
    for spec in (format_2, f"jax:{format_2}", format_1, f"jax:{format_1}"):
        assert convert.main(["verify", str(run), spec]) == convert.DONE


def test_the_vocabulary_is_also_in_the_files_of_older_transformers(out):
    from transformers import CLIPTokenizer

    for kind in OUTPUTS:
        folder = out / kind
        vocab = json.loads((folder / "vocab.json").read_text())
        lines = (folder / "merges.txt").read_text().splitlines()
        merges = [tuple(line.split(" ")) for line in lines[1:]]
        assert lines[0].startswith("#version") and all(len(pair) == 2 for pair in merges)
        made = CLIPTokenizer(vocab=vocab, merges=merges)
        text = "A red circle moves left; it's 12 frames."
        assert made(text)["input_ids"] == CLIPTokenizer.from_pretrained(folder)(text)["input_ids"]
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        assert settings["model_max_length"] == 160 and "local_files_only" not in settings
        assert settings["split_special_tokens"] is True


# -- whole or not at all


def test_a_folder_that_is_not_empty_is_left_alone(run, out, capsys):
    before = (out / "pytorch" / "model.safetensors").read_bytes()
    assert convert.main(["export", str(run), str(out)]) == convert.FAILED
    assert "is not empty" in capsys.readouterr().err
    assert (out / "pytorch" / "model.safetensors").read_bytes() == before


def test_an_export_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    made = bundle.bundle_from_run(load_run(run))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_card", full)
    with pytest.raises(OSError, match="No space"):
        export.export(made, tmp_path / "out", ["pytorch"])
    assert list((tmp_path / "out").iterdir()) == []


def test_an_export_of_no_run_is_a_clear_error(tmp_path, capsys):
    assert convert.main(["export", str(tmp_path), str(tmp_path / "out")]) == convert.FAILED
    assert "is not the workdir of a run" in capsys.readouterr().err
