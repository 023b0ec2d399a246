r"""A train step beside PyTorch's: same towers, weights and batch, one process, alternating.

    python -m benchmarks.against_torch [--model b32] [--batch 8] [--frames 8] [--rounds 3]
    python -m benchmarks.against_torch --model tiny --batch 4 --only global_only torch_model

Each contender does whole steps of training in float32: normalised frames, both towers, a loss,
gradients, clipping, AdamW. The rows are our objectives (`global_only`, `full`, `parts_ordered`,
through `training.step`), our model in PyTorch (`torch_model`, export/), transformers' CLIPModel
on mean frames (`eager`, with its fused attention), and the same under `torch.compile` (`compiled`).
These three and `global_only` compute the same: their losses before the first step are printed and
have to agree. The other two objectives compute more.

Each round begins with another row, and measures the peak too: float32 products of 3,072 x 3,072
matrices, by the faster of the two libraries. "Of the peak" is the FLOPs of the formula
(cost/flops.py) over the time over that; "as fast as eager" is eager's time over the row's. Both are
given by seconds and by core-seconds, the time that the process had a core: on a machine that does
other things as well, the latter tell more. Page faults are those of temporaries that the allocator
gives back after each step; "kernel" is mostly the time to clear their pages.
"""

import argparse
import dataclasses
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from torch.nn import functional as F

from benchmarks.train_step import random_batch
from configs.base import get_config
from mova_jax.config import Config, from_config_dict
from mova_jax.cost.flops import model_flops
from mova_jax.export import torch_model
from mova_jax.export.huggingface import clip_config
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.parallel import sharding
from mova_jax.training.state import make_train_spec
from mova_jax.training.step import make_train_step
from mova_jax.utils.trees import parameter_names
from mova_jax.weights.layouts import to_huggingface
from mova_jax.weights.torch_names import to_torch

OBJECTIVES = ("global_only", "full", "parts_ordered")
TORCH = ("torch_model", "eager", "compiled")
PARTS = 4, 40  # number and length of the parts of a caption
PEAK_SIZE, PEAK_SECONDS = 3072, 1.0


class Use(NamedTuple):
    """What a call took."""

    seconds: float
    core_seconds: float
    kernel: float  # core-seconds of it
    faults: float


def use_of(call: Callable[[], object]) -> Use:
    """Calls a function once."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    call()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    kernel = after.ru_stime - before.ru_stime
    program = after.ru_utime - before.ru_utime
    return Use(seconds, program + kernel, kernel, after.ru_minflt - before.ru_minflt)


@dataclasses.dataclass
class Contender:
    """One row: a function that does a step and returns its loss."""

    name: str
    flops: float  # of a step, by the formula
    step: Callable[[], float]
    loss: float = math.nan  # before the first step
    first: float = math.nan  # seconds of the first step, with compiling
    uses: list[Use] = dataclasses.field(default_factory=list)

    def begin(self) -> None:
        """The first step."""
        start = time.perf_counter()
        self.loss = self.step()
        self.first = time.perf_counter() - start


def make_config(args: argparse.Namespace, objective: str) -> Config:
    """The base recipe at the sizes asked for."""
    made = get_config(
        f"model={args.model},objective={objective},frames={args.frames},batch={args.batch}"
    )
    made.model.text.vocab_size = 1024 if args.model == "tiny" else 49408
    return from_config_dict(made)


def make_batch(config: Config, tokens: int) -> dict[str, np.ndarray]:
    """A random batch whose texts end with the highest token, as CLIP's do."""
    batch, end = random_batch(config, tokens, PARTS), config.model.text.vocab_size - 1
    for name in ("tokens", "part_tokens"):
        if name in batch:
            batch[name] = np.minimum(batch[name], end - 1)
            batch[name][..., -1] = end
    return batch


def ours(config: Config, tokens: int, name: str) -> Contender:
    """The train step of a run."""
    mesh = mesh_lib.make_mesh()
    spec = make_train_spec(config, mesh)
    batch = sharding.put_batch(mesh, make_batch(config, tokens))
    train_step, state = make_train_step(spec, mesh), spec.initial()

    def step():
        nonlocal state
        state, metrics = train_step(state, batch)
        jax.block_until_ready(state)
        return float(metrics["loss"])

    parts = PARTS if config.data.parts else (0, 0)
    costs = model_flops(config, tokens, parts=parts)
    return Contender(name, sum(cost.total for cost in costs.values()), step)


def theirs(config: Config, tokens: int, name: str, params: dict[str, np.ndarray]) -> Contender:
    """A step of PyTorch.

    Args:
        config: of `global_only`.
        tokens: l.
        name: one of `TORCH`.
        params: our parameters by name.
    """
    make = mova_loss if name == "torch_model" else clip_loss
    model, loss_of = make(config, params)
    arrays = make_batch(config, tokens)
    batch = [torch.from_numpy(arrays[n]) for n in ("frames", "frame_mask", "tokens", "token_mask")]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.05)
    run = torch.compile(loss_of) if name == "compiled" else loss_of

    def step():
        optimizer.zero_grad()
        loss = run(*batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
        optimizer.step()
        return loss.item()

    costs = model_flops(config, tokens)
    return Contender(name, sum(cost.total for cost in costs.values()), step)


def mova_loss(config: Config, params: dict[str, np.ndarray]):
    """Our model in PyTorch, and its loss of a batch."""
    model = torch_model.Mova({"model": dataclasses.asdict(config.model)})
    model.load_state_dict({n: torch.tensor(x) for n, x in to_torch(params).items()})

    def loss_of(frames, frame_mask, tokens, token_mask):
        video = model.encode_video(frames, frame_mask)
        text = model.encode_text(tokens.long(), token_mask)
        return contrast(video.pooled, F.normalize(text.pooled, dim=-1), model.logit_scale)

    return model, loss_of


def clip_loss(config: Config, params: dict[str, np.ndarray]):
    """transformers' CLIPModel with our weights, and its loss of a batch by mean frames."""
    end = config.model.text.vocab_size - 1
    settings = clip_config(config.model, {"eos_token_id": end})
    model = transformers.CLIPModel(transformers.CLIPConfig(**settings))
    tensors = {n: torch.tensor(x) for n, x in to_huggingface(params).items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if unexpected or any("position_ids" not in name for name in missing):
        raise RuntimeError(f"CLIPModel: missing {missing}, unexpected {unexpected}")
    mean, std = torch.tensor((config.model.vision.mean, config.model.vision.std))

    def loss_of(frames, frame_mask, tokens, token_mask):
        pixels = ((frames.flatten(0, 1).float() / 255.0 - mean) / std).permute(0, 3, 1, 2)
        seen = model.vision_model(pixel_values=pixels).pooler_output
        frames = F.normalize(model.visual_projection(seen), dim=-1).unflatten(0, frame_mask.shape)
        video = F.normalize((frames * frame_mask[..., None]).sum(1), dim=-1)
        read = model.text_model(input_ids=tokens, attention_mask=token_mask.long()).pooler_output
        text = F.normalize(model.text_projection(read), dim=-1)
        return contrast(video, text, model.logit_scale)

    return model, loss_of


def contrast(video: torch.Tensor, text: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """CLIP's loss of vectors of length 1, [b d] and [b d]."""
    logits = log_scale.exp().clamp(max=100.0) * video @ text.T
    rows = torch.arange(len(logits))
    return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2


def peak_rates() -> dict[str, tuple[float, float]]:
    """FLOPs of float32 products by library: a second, and a core-second."""
    made = np.random.default_rng(0).standard_normal((PEAK_SIZE, PEAK_SIZE), np.float32)
    first, second = torch.from_numpy(made), jnp.asarray(made)
    product = jax.jit(jnp.matmul)
    calls = {"torch": lambda: first @ first, "jax": lambda: product(second, second)}
    found = {}
    for name, call in calls.items():
        jax.block_until_ready(call())
        uses, start = [], time.perf_counter()
        while time.perf_counter() - start < PEAK_SECONDS:
            uses.append(use_of(lambda call=call: jax.block_until_ready(call())))
        flops = len(uses) * 2.0 * PEAK_SIZE**3
        seconds, core_seconds, _, _ = map(sum, zip(*uses, strict=True))
        found[name] = flops / seconds, flops / core_seconds
    return found


def contenders(args: argparse.Namespace) -> list[Contender]:
    """The rows asked for, each after its first step."""
    plain = make_config(args, "global_only")
    spec = make_train_spec(plain, mesh_lib.make_mesh())
    params = {n: np.asarray(x) for n, x in parameter_names(spec.initial().params).items()}
    made = []
    for name in args.only:
        try:
            if name in OBJECTIVES:
                one = ours(make_config(args, name), args.text_length, name)
            else:
                one = theirs(plain, args.text_length, name, params)
            one.begin()
        except Exception as error:
            if name != "compiled":
                raise
            print(f"{name} does not work here: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        print(f"{name}: first step {one.first:.1f} s, loss {one.loss:.5f}", file=sys.stderr)
        made.append(one)
    return made


def table(made: list[Contender], peaks: list[dict[str, tuple[float, float]]]) -> str:
    """Markdown, one line a contender.

    Args:
        made: with one use a round.
        peaks: of each round.
    """
    heads = ("step", "loss", "first step, s", "seconds", "core-seconds", "of them kernel",
             "page faults", "as fast as eager", "by core-s", "TFLOP", "of the peak",
             "by core-s")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    best = np.array([np.max(list(peak.values()), axis=0) for peak in peaks])
    times = {one.name: np.array([use[:2] for use in one.uses]) for one in made}
    for one in made:
        taken = times[one.name]
        _, _, kernel, faults = np.median(np.array(one.uses), axis=0)
        faster = [""] * 2
        if "eager" in times:
            faster = [f"{x:.2f}" for x in np.median(times["eager"] / taken, axis=0)]
        shares = [f"{x:.2f}" for x in np.median(one.flops / taken / best, axis=0)]
        cells = [
            one.name,
            f"{one.loss:.4f}",
            f"{one.first:.0f}",
            *(f"{np.median(x):.2f} ({x.min():.2f} to {x.max():.2f})" for x in taken.T),
            f"{kernel:.1f}",
            f"{faults:,.0f}",
            *faster,
            f"{one.flops / 1e12:.3g}",
            *shares,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="b32")
    parser.add_argument("--batch", type=int, default=8, help="videos")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--text_length", type=int, default=248, help="tokens of a caption")
    parser.add_argument("--rounds", type=int, default=3)
    names = (*OBJECTIVES, *TORCH)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    made, peaks = contenders(args), []
    for number in range(args.rounds):
        peaks.append(peak_rates())
        turn = number % len(made)
        for one in made[turn:] + made[:turn]:
            one.uses.append(use_of(one.step))
        print(f"round {number + 1} of {args.rounds}: {in_gflops(peaks[-1])}", file=sys.stderr)
    medians = {n: tuple(np.median([peak[n] for peak in peaks], axis=0)) for n in peaks[0]}
    print(
        f"{args.model}, {args.batch} videos of {args.frames} frames, {args.text_length} tokens, "
        f"{args.rounds} rounds, {len(os.sched_getaffinity(0))} cores, float32; peak "
        f"{in_gflops(medians)}\n"
    )
    print(table(made, peaks))


def in_gflops(rates: dict[str, tuple[float, float]]) -> str:
    """The peak by library, as text."""
    return ", ".join(
        f"{name} {a / 1e9:.0f} GFLOP a second, {b / 1e9:.0f} a core-second"
        for name, (a, b) in rates.items()
    )


if __name__ == "__main__":
    main()
