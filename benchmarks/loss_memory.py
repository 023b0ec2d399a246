"""Memory of the losses on each of n devices at one global batch: around the ring, and dense.

    python -m benchmarks.loss_memory [--batch 512] [--frames 16] [--tokens 64] [--width 64]
                                     [--objective full] [--hard_pairs 0] [--time]

Compiles loss and gradient, by embeddings and mask networks, for 1, 2, 4 and 8 simulated CPU devices
and prints what the compiler plans for temporaries on each. `dense` is the same loss without
replicas, all pairs in one tile: the compiler finds its own way to split it. `--time`
also runs both.
"""

import argparse
import os
import time

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import numpy as np
from flax import nnx

from configs.base import get_config
from mova_jax.config import Config, from_config_dict
from mova_jax.losses import ring
from mova_jax.losses.objective import loss_of_embeddings
from mova_jax.models.mova import Mova
from mova_jax.parallel import collectives, sharding
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.typing import TextEmbedding, VideoEmbedding


def configuration(args: argparse.Namespace) -> Config:
    """The base configuration with mask networks and embeddings of one width."""
    made = get_config(f"objective={args.objective},batch={args.batch},frames={args.frames}")
    made.model.embed_dim = made.model.text.width = args.width
    made.model.text.heads = 2
    made.model.text.vocab_size = 8
    made.losses.hard_pairs = args.hard_pairs
    if args.hard_pairs:
        made.losses.dfsm_masks = "own"
    return from_config_dict(made)


def embeddings(config: Config, tokens: int) -> tuple[VideoEmbedding, TextEmbedding, np.ndarray]:
    """Random embeddings in which all is valid, and the mask that says so."""
    rng = np.random.default_rng(0)
    b, f, d = config.train.batch_size, config.data.frames, config.model.embed_dim

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    unit = normal(b, d)
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    video = VideoEmbedding(normal(b, f, d), np.ones((b, f), bool), unit)
    text = TextEmbedding(normal(b, tokens, d), np.ones((b, tokens), bool), normal(b, d))
    return video, text, np.ones(b, bool)


def compiled(config: Config, mesh, tokens: int, dense: bool):
    """Loss and gradient as a program for the mesh, and what it is called with."""
    group = None if dense else collectives.replica_group(mesh)
    video, text, valid = jax.device_put(embeddings(config, tokens), sharding.batch_sharding(mesh))
    model = Mova(config.model, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model)
    params = jax.device_put(params, sharding.replicated(mesh))

    def loss_of(params, frames, pooled, words, sentence):
        model = nnx.merge(graphdef, params)
        videos = VideoEmbedding(frames, video.frame_mask, pooled)
        captions = TextEmbedding(words, text.token_mask, sentence)
        return loss_of_embeddings(model, videos, captions, valid, config.losses, group)[0]

    leaves = params, video.frames, video.pooled, text.tokens, text.pooled
    kept = ring.STORED_FLOATS
    ring.STORED_FLOATS = 2**62 if dense else kept
    try:
        program = jax.jit(jax.value_and_grad(loss_of, range(5))).lower(*leaves).compile()
    finally:
        ring.STORED_FLOATS = kept
    return program, leaves


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--objective", default="full")
    parser.add_argument("--hard_pairs", type=int, default=0)
    parser.add_argument("--time", action="store_true")
    args = parser.parse_args()
    config = configuration(args)
    print(f"{args.objective}, batch {args.batch}, {args.frames} frames, {args.tokens} tokens")
    print("devices  form   MiB a device" + ("  loss, s" if args.time else ""))
    for devices in (1, 2, 4, 8):
        for dense in (False, True):
            mesh = mesh_lib.make_mesh(data=devices)
            program, leaves = compiled(config, mesh, args.tokens, dense)
            size = program.memory_analysis().temp_size_in_bytes / 2**20
            line = f"{devices:7}  {'dense' if dense else 'ring':5}  {size:12.0f}"
            if args.time:
                start = time.perf_counter()
                loss = float(program(*leaves)[0])
                line += f"  {loss:.5f} in {time.perf_counter() - start:.1f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
