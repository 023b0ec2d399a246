"""Bad input for all commands but training."""

from benchmarks.faults.bad_makers import (
    LFS,
    LINE,
    SKIPPED,
    USAGE,
    Bad,
    command,
    cut,
    evaluate,
    garbage,
    imported_weights,
    jsonl,
    video,
    write,
)
from benchmarks.faults.materials import prepare

COMMANDS = {
    "prepare": [
        Bad(
            "a JSONL that there is not", lambda m, f: prepare(f / "no.jsonl", f / "out"), "no.jsonl"
        ),
        Bad("an empty JSONL", jsonl(), "No video"),
        Bad("a line that is no JSON", jsonl(LINE, "{oh no"), "not JSON", (SKIPPED,)),
        Bad("a line without a caption", jsonl(LINE, {"video": "01.mp4"}), "caption", (SKIPPED,)),
        Bad("a PNG in place of the JSONL", jsonl(b"\x89PNG\r\n\x1a\n\0\0"), "No video"),
        Bad(
            "a video that is missing",
            jsonl(LINE, LINE | {"video": "x.mp4"}),
            "x.mp4.*no such file|no such file",
            (SKIPPED,),
        ),
        Bad("an empty video", video(b""), "the file is empty", (SKIPPED,)),
        Bad("text in a video", video(b"hello" * 99), "not a video", (SKIPPED,)),
        Bad("a pointer of Git LFS as video", video(LFS.encode()), "Git LFS", (SKIPPED,)),
        Bad(
            "a cut that ends before it starts",
            jsonl(LINE, LINE | {"start": 5, "end": 2}),
            "start < end",
            (SKIPPED,),
        ),
        Bad("an output that is not empty", jsonl(LINE, more=("--output", "docs")), "not empty"),
        Bad("shares that are none", jsonl(LINE, more=("--splits", "train=x")), "train=x", (USAGE,)),
        Bad("no frames a second", jsonl(LINE, more=("--fps", "0")), "fps"),
        Bad(
            "a tokenizer that is not there",
            jsonl(LINE, more=("--tokenizer", "no/folder")),
            "no/folder",
        ),
        Bad(
            "a data set that is not known",
            command("prepare", "mnist", "--output", "{folder}/o"),
            "mnist",
            (USAGE,),
        ),
        Bad(
            "annotations that are not there",
            command(
                "prepare",
                "msrvtt",
                "--videos",
                "{videos}",
                "--annotations",
                "{folder}",
                "--output",
                "{folder}/o",
            ),
            "There is no",
        ),
        Bad(
            "a split with a bad name",
            jsonl(LINE, LINE | {"video": "01.mp4", "split": "../x"}),
            "lower case",
            (SKIPPED,),
        ),
        Bad(
            "a URL of a store that is not known",
            lambda m, f: prepare("xy://a/b.jsonl", f / "out"),
            "xy",
        ),
    ],
    "prepare inspect": [
        Bad("a folder that there is not", command("prepare", "inspect", "no/shards"), "no/shards"),
    ],
    "evaluate": [
        Bad("a model that there is not", evaluate("--model", "no/model"), "no/model"),
        Bad("an empty folder as model", evaluate("--model", "{folder}"), "expected|no "),
        Bad(
            "a split that there is not",
            evaluate("--model", "{run}", "--data", "{shards}:dev"),
            "dev",
        ),
        Bad(
            "data that there are not",
            evaluate("--model", "{run}", "--data", "no/shards"),
            "no/shards",
        ),
        Bad("an export without its data", evaluate("--model", "{export}/pytorch"), "--data"),
        Bad(
            "another evaluation without ranks",
            evaluate("--model", "{run}", "--against", "{folder}"),
            "no ranks",
        ),
        Bad(
            "classes that are no JSON",
            evaluate("--model", "{run}", "--classes", "{folder}/c.json", file="c.json", data="{oh"),
            "c.json",
        ),
        Bad(
            "a key of another section",
            evaluate("--model", "{run}", "--set", "train.steps=3"),
            "train.steps",
        ),
        Bad("a suite that there is not", evaluate("--model", "{run}", "--suite", "best"), "best"),
        Bad(
            "an output that is a run",
            lambda m, f: ["mova_jax.evaluate", "--model", m.run, "--output", m.run],
            "workdir of a run",
        ),
        Bad(
            "an output with half an evaluation.json",
            lambda m, f: [
                write(f / "out" / "evaluation.json", "{"),
                *evaluate("--model", str(m.run))(m, f),
            ][1:],
            "evaluation.json",
        ),
    ],
    "convert": [
        Bad(
            "a run that there is not",
            command("convert", "export", "no/run", "{folder}/out"),
            "no/run",
        ),
        Bad(
            "a folder that is no run",
            command("convert", "export", "{folder}", "{folder}/out"),
            "config.json",
        ),
        Bad(
            "an output that is not empty",
            command("convert", "export", "{run}", "{export}", "--to", "pytorch"),
            "not empty",
        ),
        Bad(
            "weights of text",
            imported_weights("pytorch_model.bin", "hello"),
            "no whole PyTorch file",
        ),
        Bad(
            "half a file of weights",
            imported_weights("model.safetensors", (1000).to_bytes(8, "little") + b"{}"),
            "no whole safetensors file",
        ),
        Bad(
            "a pointer of Git LFS as weights",
            imported_weights("model.safetensors", LFS),
            "Git LFS",
        ),
        Bad(
            "an empty folder to verify",
            command("convert", "verify", "{run}", "{folder}"),
            "expected|no ",
        ),
        Bad(
            "a format that there is not",
            command("convert", "export", "{run}", "{folder}/o", "--to", "tf"),
            "tf",
            (USAGE,),
        ),
    ],
    "embed": [
        Bad(
            "a folder of videos that there is not",
            command("embed", "--model", "{run}", "--videos", "no/videos", "--index", "{folder}/i"),
            "no/videos",
        ),
        Bad(
            "a model that there is not",
            command(
                "embed", "--model", "no/model", "--videos", "{videos}", "--index", "{folder}/i"
            ),
            "no/model",
        ),
        Bad(
            "another rate than the index has",
            command(
                "embed",
                "--model",
                "{run}",
                "--videos",
                "{videos}",
                "--index",
                "{index}",
                "--fps",
                "3",
            ),
            "fps",
        ),
        Bad(
            "an index.json that is no JSON",
            command(
                "embed",
                "--model",
                "{run}",
                "--videos",
                "{videos}",
                "--index",
                "{index}",
                change=garbage("index.json"),
            ),
            "index.json",
        ),
        Bad(
            "an index that is a file",
            command(
                "embed",
                "--model",
                "{run}",
                "--videos",
                "{videos}",
                "--index",
                "{folder}/i",
                change=lambda f: write(f / "i", "x"),
            ),
            "/i",
        ),
    ],
    "search": [
        Bad(
            "a folder that is no index",
            command("search", "--index", "{folder}", "A cat."),
            "no index",
        ),
        Bad("a blank question", command("search", "--index", "{index}", "  "), "text"),
        Bad(
            "a question of 10,000 characters",
            command("search", "--index", "{index}", "cat " * 2500),
            "10000",
        ),
        Bad(
            "text as picture",
            command(
                "search",
                "--index",
                "{index}",
                "--like",
                "{folder}/p.jpg",
                change=lambda f: write(f / "p.jpg", "hello"),
            ),
            "p.jpg",
        ),
        Bad(
            "vectors that are cut short",
            command("search", "--index", "{index}", "A cat.", change=cut("vectors.npy")),
            "vectors.npy",
        ),
        Bad(
            "a date that is none",
            command("search", "--index", "{index}", "A cat.", "--after", "soon"),
            "soon",
        ),
        Bad(
            "a file of text that is binary",
            command(
                "search",
                "--index",
                "{index}",
                "--file",
                "{folder}/q",
                change=lambda f: write(f / "q", b"\xff\xfe\0\xd8"),
            ),
            "UTF-8",
        ),
    ],
    "plan": [
        Bad(
            "a pod that there is not",
            command("plan", "--config=configs/base.py", "--topology=v9z:16x16"),
            "v9z",
        ),
    ],
}
