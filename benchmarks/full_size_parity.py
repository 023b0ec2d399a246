"""Verifies import and export at the full size of a published CLIP, with random weights.

    python -m benchmarks.full_size_parity b16 [--folder FOLDER]     # b32, b16, l14, l14_336

Makes a CLIPModel of transformers at that size, with a small vocabulary, and runs the commands of
docs/weights.md: transformers against JAX on 77 tokens, the import to 248 tokens, JAX against
PyTorch on all outputs. Takes some minutes and several gigabytes on a CPU; the exit code is 1 when
an output differs by more than 1e-5 of its largest value.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from mova_jax import convert
from mova_jax.config.presets import MODELS
from mova_jax.data.tokenizer import Tokenizer, train_tokenizer

VOCABULARY, POSITIONS = 49408, 77  # of every published CLIP


def make_clip(size: str, folder: Path) -> None:
    """A CLIPModel with random weights of a preset's size, and a vocabulary that fits into it."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    preset = MODELS[size]

    def tower(name: str) -> dict:
        width = preset[f"model.{name}.width"]
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": preset[f"model.{name}.layers"],
            "num_attention_heads": preset[f"model.{name}.heads"],
            "hidden_act": preset["model.activation"],
            "projection_dim": preset["model.embed_dim"],
        }

    train_tokenizer(["a red circle moves left"] * 4, 520, folder)
    end = Tokenizer(folder).eot_id
    ids = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    words = {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS}
    images = {name: preset[f"model.vision.{name}"] for name in ("image_size", "patch_size")}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=tower("text") | ids | words,
        vision_config=tower("vision") | images,
        projection_dim=preset["model.embed_dim"],
    )
    CLIPModel(config).save_pretrained(folder)


def main() -> int:
    """Runs the three commands; returns 1 when a comparison fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", choices=[name for name in MODELS if name != "tiny"])
    parser.add_argument("--folder", type=Path, help="for the files; a temporary one by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        clip, out = folder / "clip", folder / "out"
        make_clip(args.size, clip)
        imported = str(out / "pytorch")
        commands = (
            ["verify", str(clip), f"jax:{clip}"],
            ["import", str(clip), str(out), "--config", "configs/base.py:frames=8"],
            ["verify", f"jax:{imported}", imported, "--videos", "2", "--frames", "2"],
        )
        return max(convert.main(command) for command in commands)


if __name__ == "__main__":
    sys.exit(main())
