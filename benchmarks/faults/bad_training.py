"""Bad input for training: keys, config files, data, workdirs, weights, the environment."""

import shutil

from benchmarks.faults.bad_makers import (
    LFS,
    USAGE,
    WRONG,
    Bad,
    command,
    config_file,
    cut,
    delete,
    garbage,
    initial_weights,
    shards,
    training,
    training_flags,
    workdir,
    write,
)
from benchmarks.faults.materials import train

TRAINING = [
    Bad("a key that there is not", training_flags("--config.train.stepz=3"), "stepz"),
    Bad("a word for a number", training(train__steps="many"), "train.steps.*many"),
    Bad("a learning rate of -1", training(optim__learning_rate=-1), "learning_rate.*-1"),
    Bad("a learning rate of nan", training(optim__learning_rate="nan"), "learning_rate"),
    Bad("a batch of 0", training(train__batch_size=0), "batch_size.*0"),
    Bad("an argument that there is not", training(data="x,speed=9"), "speed"),
    Bad("a config file that there is not", command("main", "--config=no.py"), "no.py"),
    Bad("a config file with a syntax error", config_file("def get_config(:"), "own.py"),
    Bad("a config file without get_config", config_file("x = 1"), "get_config"),
    Bad("a config file that raises an error", config_file("import nothing_at_all"), "own.py"),
    Bad("a flag that there is not", training_flags("--speed=9"), "--speed"),
    Bad(
        "a workdir that is a file",
        lambda m, f: train(write(f / "file", "x"), m.shards),
        "/file",
    ),
    Bad("a workdir in /proc", lambda m, f: train("/proc/run", m.shards), "/proc/run"),
    Bad(
        "a bucket as workdir",
        lambda m, f: train("s3://bucket/run", m.shards),
        "s3://bucket/run",
        (WRONG, USAGE),
    ),
    Bad("a folder of shards that there is not", training(data="no/shards"), "no/shards"),
    Bad("a folder of shards without a manifest", shards(delete("manifest.json")), "manifest"),
    Bad("half a manifest", shards(cut("manifest.json")), "manifest.json"),
    Bad("half a shard", shards(cut("*train*array_record*")), "truncated"),
    Bad("a shard that is gone", shards(delete("*train*array_record*")), "not in the folder"),
    Bad("a tokenizer that is no JSON", shards(garbage("tokenizer/*.json")), "tokenizer"),
    Bad("a tokenizer that is gone", shards(lambda f: shutil.rmtree(f / "tokenizer")), "token"),
    Bad("a batch larger than the split", training(train__batch_size=512), "512"),
    Bad("a workdir of another configuration", workdir(str, seed=5), "seed"),
    Bad("half a config.json in the workdir", workdir(cut("config.json")), "config.json"),
    Bad(
        "a metric log with a line that is no JSON",
        workdir(
            lambda f: (
                (f / "report.html").unlink(),
                garbage("metrics.jsonl", b"no JSON\n{}\n")(f),
            )
        ),
        "metrics.jsonl, line 1",
    ),
    Bad(
        "an environment.json that is no JSON",
        workdir(garbage("environment.json")),
        "environment.json",
    ),
    Bad("initial weights that there are not", initial_weights("", ""), "expected one of"),
    Bad(
        "initial weights of text",
        initial_weights("model.safetensors", "hello"),
        "model.safetensors",
    ),
    Bad("a pointer of Git LFS as weights", initial_weights("model.safetensors", LFS), "Git LFS"),
    Bad(
        "an accelerator that is not there",
        training_flags(),
        "JAX_PLATFORMS|cuda",
        env={"JAX_PLATFORMS": "cuda"},
    ),
    Bad("JAX_ENABLE_X64=1 in the environment", training(), "X64", env={"JAX_ENABLE_X64": "1"}),
    Bad("a bad XLA_FLAGS", training(), "XLA_FLAGS", env={"XLA_FLAGS": "--xla_no_such_flag=1"}),
    Bad("more devices than there are", training(mesh__data=64), "64"),
    Bad("a profile beyond the last step", training_flags("--profile_steps=900:901"), "900"),
]
