"""The report of a synthetic workdir that has all that a run can measure, and of shorter ones."""

import html.parser
import json

import numpy as np
import pytest

from mova_jax.report.report import Timeline, write_report
from mova_jax.report.run_metrics import read_run

SPLITS = ("test", "ood_time", "ood_domain")


def ranked(rng, level: float, scores, gallery: int, interval: bool) -> dict[str, float]:
    """Retrieval metrics of one split, named as an evaluation names them."""
    metrics = {"gallery": float(gallery), "gallery_captions": float(gallery)}
    for score in scores:
        gain = {"global": 1.0, "modular": 0.8, "blend": 1.3}[score]
        for way in ("t2v", "v2t"):
            r1 = min(95.0, gain * level + rng.normal(0, 0.8))
            values = {"r1": r1, "r5": r1 * 2.1, "r10": r1 * 2.6, "mdr": 400 / r1, "mnr": 700 / r1}
            values |= {"r1_low": r1 - 4.0, "r1_high": r1 + 4.0} if interval else {}
            metrics |= {f"{score}/{way}/{key}": value for key, value in values.items()}
    if "blend" in scores:
        metrics["blend/weight"] = 0.5
    record = scores[-1]
    copies = {k.removeprefix(f"{record}/"): v for k, v in metrics.items() if f"{record}/" in k}
    return metrics | {k: v for k, v in copies.items() if k.startswith(("t2v/", "v2t/"))}


def make_workdir(folder, masks: bool = True, timed: bool = True, steps: int = 2000):
    """A workdir as a training run leaves it; without masks it has the global score alone."""
    rng = np.random.default_rng(0)
    scores = ("global", "modular", "blend") if masks else ("global",)
    terms = ("contrast", "frame", "sfdm", "dfsm", "sparsity") if masks else ("contrast",)
    lines = []
    for step in range(10, steps + 1, 10):
        done = step / steps
        losses = {t: 3.5 * np.exp(-2 * done) + rng.normal(0, 0.1) for t in terms}
        row = {f"train/{t}": v for t, v in losses.items()}
        row |= {
            "train/loss": sum(losses.values()),
            "train/in_batch_r1": 0.6 * done + 0.03 * rng.random(),
            "train/scale": 14 + 20 * done,
            "train/grad_norm": 1 + rng.random(),
            "train/learning_rate": 1e-3 * min(10 * done, 1.0),
            "train/finite": 1.0,
            "time/step_s": 0.125,
            "time/videos_per_s": 512.0,
            "time/frames_per_s": 8192.0,
            "time/data_wait_share": 0.034,
        }
        if masks:
            row |= {
                "train/text_mask_density": 0.9 - 0.5 * done + 0.02 * rng.random(),
                "train/video_mask_density": 0.95 - 0.3 * done + 0.02 * rng.random(),
                "train/modular_scale": 10 + 5 * done,
            }
        lines.append({"step": step} | row)
        splits = ("validation",) if step % 200 == 0 else ()
        if masks and splits:
            norms = {"frame": 0.01, "sfdm": 1.0, "dfsm": 0.9, "sparsity": 0.02}
            gradients = {f"gradient/{t}/{n}": v for t, v in norms.items() for n in ("tmn", "cmn")}
            lines.append({"step": step} | gradients)
        for split in splits + SPLITS * (step == steps):
            level = 25 * done if split in ("validation", "test") else 8.0
            found = ranked(rng, level + 0.4, scores, 256, split != "validation")
            if timed:
                for kind, hit in (("modular", 0.62), ("frame", 0.44))[not masks :]:
                    metrics = {"hit": hit * done, "chance": 0.21, "auc": 0.5 + 0.3 * done}
                    metrics |= {"miou": 0.4 * done, "miou_whole": 0.2, "miou_ceiling": 0.93}
                    metrics |= {"sentences": 812, "left_out": 9}
                    found |= {f"grounding/{kind}/{k}": v for k, v in metrics.items()}
            if masks:
                found |= {
                    "text_mask_density": 0.9 - 0.5 * done,
                    "video_mask_density": 0.95 - 0.3 * done,
                }
                found |= {"leak/own_masks_auc": 0.5 + 0.25 * done}
            if split != "validation":
                found["checkpoint_step"] = steps - 100.0
            lines.append({"step": step} | {f"{split}/{k}": v for k, v in found.items()})
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {"seed": 7, "objective": "full" if masks else "global_only"}
    (folder / "config.json").write_text(json.dumps(config | {"model": {"embed_dim": 128}}))
    return folder


def test_the_warm_up_on_images_is_shaded_and_explained(tmp_path):
    workdir = make_workdir(tmp_path / "run", steps=200)
    plain = write_report(workdir, []).read_text()
    curves = (workdir / "plots" / "losses.png").read_bytes()
    config = json.loads((workdir / "config.json").read_text())
    train = {"steps": 200, "image_share": 0.25}
    (workdir / "config.json").write_text(json.dumps(config | {"train": train}))
    text = write_report(workdir, []).read_text()
    assert "the first 50 steps, on single frames" in text and "on single frames" not in plain
    assert (workdir / "plots" / "losses.png").read_bytes() != curves


def make_timeline(
    name: str, frames: np.ndarray, sentences, spans, masks: bool = True, seed: int = 0
) -> Timeline:
    """Noisy scores that rise where a sentence is true; masks that follow them."""
    rng = np.random.default_rng(seed)
    times = np.arange(len(frames), dtype=np.float32)
    spans = np.array(spans, np.float32).reshape(-1, 2)
    inside = (spans[:, :1] <= times) & (times < spans[:, 1:])
    scores = 0.15 + 0.12 * inside + rng.normal(0, 0.03, inside.shape)
    masks_of = {}
    if masks:
        affinity = rng.normal(0, 1, (128, len(spans) + 1))
        shown = np.concatenate([inside, np.ones((1, len(times)))])
        masks_of["text_concepts"] = ((affinity @ shown).T > 0.8).astype(np.float32)
        noisy = (affinity @ shown).T + rng.normal(0, 0.4, (len(times), 128))
        masks_of["video_concepts"] = (noisy > 0.2).astype(np.float32)
    windows = tuple(one[one[:, 0] >= 0] for one in spans[:, None])
    return Timeline(name, frames, times, tuple(sentences), scores, windows, **masks_of)


class Page(html.parser.HTMLParser):
    """Tags, addresses and table rows of a page, as a browser finds them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.links, self.tables, self.titles, self.words = [""], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data):
        self.words.append(data)
        if self.tags[-1] in ("h1", "h2", "h3"):
            self.titles.append(data.strip())
        if self.tags[-1] in ("td", "th", "small"):
            self.tables[-1][-1][-1] += data.strip()

    def row(self, table: int, name: str) -> list[str]:
        return next(row for row in self.tables[table] if row[0] == name)


def small_timeline(**changes) -> Timeline:
    frames = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    return make_timeline("clip", frames, ["One.", "Two."], [(2, 5), (-1, -1)])._replace(**changes)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = make_workdir(tmp_path_factory.mktemp("full"), steps=400)
    write_report(folder, [small_timeline()])
    return folder


def test_report_needs_nothing_from_outside(full):
    page = Page((full / "report.html").read_text())
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.links and all(link.startswith("data:image/png;base64,") for link in page.links)
    style = (full / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_full_report_has_its_sections_and_pictures(full):
    page = Page((full / "report.html").read_text())
    sections = ["Retrieval", "Grounding", "Timelines", "Concept masks", "Training", "The run"]
    assert [t for t in page.titles if t in sections] == sections
    names = {"retrieval", "masks", "losses", "watched", "gradients", "timeline_1", "concepts_1"}
    pictures = {p.stem: p.read_bytes() for p in (full / "plots").iterdir()}
    assert pictures.keys() == names and page.tags.count("img") == len(names)
    assert all(image.startswith(b"\x89PNG") for image in pictures.values())


def test_report_tables_have_the_measured_values(full):
    page = Page((full / "report.html").read_text())
    metrics = read_run(full / "metrics.jsonl")
    blend = next(row for row in page.tables[0] if row[0].startswith("blend"))
    assert blend[0] == "blendweight 0.5"
    value, low = (metrics.last(f"test/blend/t2v/{key}") for key in ("r1", "r1_low"))
    assert blend[1].startswith(f"{value:.1f}{low:.1f} to ")
    assert page.row(0, "chance")[1:6] == ["0.39", "2.0", "3.9", "128.5", "128.5"]
    grounding = page.row(4, "test, modular")
    assert grounding[1:] == ["62.0", "21.0", "80.0", "50.0", "40.0", "20.0", "93.0", "812", "9"]
    assert page.row(4, "test, plain cosine")[1] == "44.0"
    assert page.row(5, "test")[1:] == ["40.0", "65.0", "75.0"]
    assert page.row(6, "videos a second")[1].startswith("512.0")
    text = " ".join(page.words)
    assert (
        "test split, checkpoint of step 300, gallery of 256 videos, one caption each, seed 7"
        in text
    )
    assert "validation split, checkpoint of step 400, gallery of 256 videos" in text
    assert f"{metrics.last('test/t2v/r1'):.1f} %" in text


def test_run_without_masks_or_timed_sentences_has_a_shorter_report(tmp_path):
    folder = make_workdir(tmp_path, masks=False, timed=False, steps=200)
    page = Page(write_report(folder, []).read_text())
    assert not {"Grounding", "Timelines", "Concept masks"} & set(page.titles)
    assert {"Retrieval", "Training", "The run"} <= set(page.titles)
    assert {p.stem for p in (folder / "plots").iterdir()} == {"retrieval", "losses", "watched"}


def test_run_without_masks_shows_timelines_and_one_kind_of_grounding(tmp_path):
    folder = make_workdir(tmp_path, masks=False, steps=200)
    bare = small_timeline(text_concepts=None, video_concepts=None)
    page = Page(write_report(folder, [bare]).read_text())
    assert "Timelines" in page.titles and "Concept masks" not in page.titles
    assert [row[0] for row in page.tables[4] if "test" in row[0]] == ["test, plain cosine"]


def test_run_that_was_never_evaluated(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n')
    page = Page(
        write_report(tmp_path, [small_timeline(sentences=(), text_concepts=None)]).read_text()
    )
    assert "Retrieval" not in page.titles and "Training" in page.titles


def test_split_without_a_counted_sentence_or_a_ranking_is_left_out(tmp_path):
    row = {"step": 1, "test/grounding/frame/sentences": 0, "test/grounding/frame/left_out": 3}
    row |= {"test/leak/own_masks_auc": 0.625}
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    page = Page(write_report(tmp_path, []).read_text())
    assert not {"Grounding", "Retrieval", "Training"} & set(page.titles)
    assert page.row(0, "test")[1:] == ["62.5"]


def test_captions_config_and_names_are_escaped(tmp_path):
    folder = make_workdir(tmp_path / "<b>run", masks=False, timed=False, steps=200)
    (folder / "config.json").write_text(
        json.dumps({"seed": "<i>", "note": "</pre><script>alert(1)</script>"})
    )
    nasty = '"><script src="http://example.com/x.js"></script>'
    item = small_timeline(video_id=nasty, sentences=(nasty, "$x_1^2$ <i>"))
    text = write_report(folder, [item]).read_text()
    page = Page(text)
    assert not {"script", "b>run", "i"} & set(page.tags)
    assert all(link.startswith("data:") for link in page.links)
    assert nasty in "".join(page.words)


def test_step_that_was_not_finite_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    rows = ['{"step": 1, "train/loss": 2, "train/finite": 1}', '{"step": 2, "train/finite": 0}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    assert "loss or gradient at step 2" in write_report(tmp_path, []).read_text()


@pytest.mark.parametrize("missing", ["config.json", "metrics.jsonl"])
def test_missing_file_is_named(tmp_path, missing):
    make_workdir(tmp_path, masks=False, timed=False, steps=200)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        write_report(tmp_path, [])


def test_the_table_says_which_captions_are_queries(tmp_path):
    folder = make_workdir(tmp_path, masks=False, timed=False, steps=200)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 200, "test/gallery_captions": 5120.0}) + "\n")
    text = write_report(folder, []).read_text()
    assert "gallery of 256 videos, 5,120 captions, each a query, seed 7" in text


@pytest.mark.parametrize("frames", [1, 2, 40])
def test_pictures_of_short_and_long_videos(tmp_path, frames):
    folder = make_workdir(tmp_path, masks=False, timed=False, steps=200)
    pixels = np.zeros((frames, 6, 10, 3), np.uint8)
    item = make_timeline("v", pixels, ["word " * 60], [(0, 1)])
    constant = item._replace(scores=np.full_like(item.scores, 0.5))
    write_report(folder, [item, constant])
    assert {"timeline_1", "timeline_2", "concepts_1"} <= {
        p.stem for p in (folder / "plots").iterdir()
    }
