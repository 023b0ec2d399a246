"""The HTML of a report: its skeleton, its style, and the explanations of tables and images.

In: plain text and image data URLs. Out: HTML text. All arguments are escaped here, except those
whose names end in `_html`.
"""

import html
import string

RETRIEVAL = (
    "Every caption (all sentences of a video together) searches all videos of the split, and every "
    "video searches all captions; where a video has several captions, each of them is a query and "
    "the best one counts as the answer. Rank = 1 + answers that score strictly higher + half of "
    "those that tie. R@K: queries with rank at most K, in %; small print: 95 % interval (Wilson) "
    "over queries, or over videos where one has several. MdR, MnR: median and mean rank. Global: "
    "cosine of two vectors. Modular: every sentence of the caption (or the whole, where it is not "
    "divided) finds its frames, under masks if there are any. Blend: global + weight x modular. "
    "The blend weight is chosen on validation, never on a test split."
)
RETRIEVAL_CURVES = (
    "Validation while training",
    "Share of queries whose answer comes first, and among the first ten. Dotted line: guessing, in "
    "this gallery. The blend should be above both scores that it is made of; where it is on the "
    "global line, the modular score adds nothing.",
)
GROUNDING = (
    "Each timed sentence is scored on every sampled frame of its own video, two ways: modular, the "
    "cosine of frame and sentence under masks, if the model has any; and their plain cosine. Hit: "
    "the best frame is within the sentence's span; chance is a random frame. AUC: a frame inside "
    "the span scores above one outside. mIoU: overlap in time of the span with the run of frames "
    "around the best one that score above the midpoint of lowest and highest; next to it the whole "
    "video as the answer, and the ceiling set by the spacing of the sampled frames. Left out: "
    "sentences without a time, or whose span has no sampled frame."
)
TIMELINES = (
    "When does each sentence hold? The video runs from left to right; below it, one sentence a "
    "row, its score on each frame, each row from its lowest to its highest score. "
    "Shaded: when the sentence is true. Dot: the best frame. Bar at the foot: the segment that the "
    "score predicts. The line should rise where the background is shaded, and the bar should be "
    "below the shade."
)
MASKS = (
    "The masks choose, for each frame, which dimensions of the joint embedding count: mᵀ for the "
    "text, mⱽ for the frame. Open: share of the dimensions that a mask lets through, in all frames "
    "and in those of events that a timed sentence names, of events that none names, and of gaps "
    "(other: of one of the last two). Masks that know when the caption speaks differ there. "
    "Leak: every "
    "video is given an unrelated caption, and the leak is the share of the other videos that score "
    "below it for this caption, without the video that the caption was written for; 50 % is "
    "chance. Own masks: every video is scored under the masks that the caption has with the video "
    "it was given to, as in dfsm when dfsm_masks is own; pair masks: each pair under its own "
    "masks, as in retrieval, which is the control. Above chance, masks identify the video that "
    "they were made with, and a falling loss under such masks has taught nothing about language."
)
MASK_CURVES = (
    "Open masks and leak",
    "Masks that stay near 100 % select nothing; near 0 % they leave nothing to compare. The leak "
    "should stay at the dotted line.",
)
CONCEPTS = (
    "One column a frame, one line a dimension, dark where the mask is open. Both pictures list the "
    "dimensions in the same order, those most often open in mᵀ on top. Full-length dark lines are "
    "dimensions that are open on every frame; changes from left to right depend on time."
)
EVALUATION_CURVES = ("Validation while training", "")
LOSS_CURVES = (
    "Losses by term",
    "The total is weighted, its terms are shown before weighting; each has its own scale. The "
    "faint line is the raw value, the full line its running mean, the number where it ends.",
)
WATCHED_CURVES = (
    "Other metrics of training",
    "In-batch R@1 is the global score's, on training batches. A gradient norm that grows without "
    "end, or a scale that sits at its limit of 100, asks for a smaller learning rate.",
)
GRADIENT_CURVES = (
    "Who moves the masks",
    "Measured at each validation on a training batch: the norm of the gradient of each term, times "
    "its weight, with respect to the parameters of a mask network. A term far below the others "
    "hardly reaches the network, whatever its weight.",
)

STYLE = """
:root { color-scheme: light dark; --ink: #22262c; --soft: #6b717b; --ground: #f4f4f1;
  --card: #fcfcfa; --line: #dfe0dc; --accent: #2f6db3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e5e3; --soft: #9aa0a9; --ground: #17191c;
  --card: #202327; --line: #34383e; --accent: #7fb0e6; } img { filter: brightness(.9); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 26px; font-weight: 650; margin: 0 0 20px; letter-spacing: -.01em; }
h2 { font-size: 19px; font-weight: 650; margin: 52px 0 6px; }
h3 { font-size: 14px; font-weight: 650; margin: 0 0 6px; overflow-wrap: anywhere; }
p { margin: 0; color: var(--soft); }
section > p { max-width: 78ch; margin-bottom: 12px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; }
.facts div, figure, .table { background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
.facts div { padding: 14px 16px; }
.facts b { display: block; font-size: 26px; font-weight: 600; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.facts span { display: block; font-size: 12.5px; color: var(--soft); }
figure { margin: 0 0 16px; padding: 16px; display: grid; gap: 18px;
  grid-template-columns: minmax(0, 1fr) 210px; }
figure.wide { grid-template-columns: minmax(0, 1fr); gap: 4px; }
figure.wide p { max-width: 78ch; padding-bottom: 6px; }
figcaption { font-size: 13.5px; }
.image { overflow-x: auto; }
img { display: block; width: 100%; min-width: 620px; border-radius: 6px; }
.table { overflow-x: auto; margin: 0 0 16px; padding: 6px 16px 10px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: 13px; padding: 8px 0; }
th { font-weight: 500; color: var(--soft); font-size: 12.5px; white-space: nowrap; }
td, th { text-align: right; padding: 6px 10px; vertical-align: top; }
td:first-child, th:first-child { text-align: left; padding-left: 0; white-space: nowrap; }
tr.groups th { text-align: center; padding-bottom: 0; color: var(--ink); }
tbody tr { border-top: 1px solid var(--line); }
tbody tr.chance td { color: var(--soft); }
td small { display: block; color: var(--soft); font-size: 11px; white-space: nowrap; }
.plain td { text-align: left; } .plain td:first-child { width: 14em; color: var(--soft); }
details { margin-top: 16px; } summary { cursor: pointer; color: var(--accent); }
pre { overflow-x: auto; font-size: 12.5px; background: var(--card); padding: 16px;
  border: 1px solid var(--line); border-radius: 10px; }
@media (max-width: 900px) { figure { grid-template-columns: minmax(0, 1fr); } }
"""

PAGE = string.Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
<div class="facts">
$facts
</div>
$sections
</main>
</body>
</html>
""")


def document(title: str, facts: list[tuple[str, str, str]], sections_html: list[str]) -> str:
    """The whole page: a title, the main results as (label, value, note), the sections."""
    cards = (
        f"<div><span>{html.escape(label)}</span><b>{html.escape(value)}</b>"
        f"<span>{html.escape(note)}</span></div>"
        for label, value, note in facts
    )
    return PAGE.substitute(
        title=html.escape(title),
        style=STYLE,
        facts="\n".join(cards),
        sections="\n".join(sections_html),
    )


def section(title: str, text: str, parts_html: list[str]) -> str:
    """A heading, a paragraph and the parts that are not empty; '' without any."""
    body = "\n".join(part for part in parts_html if part)
    if not body:
        return ""
    paragraph = f"<p>{html.escape(text)}</p>" if text else ""
    return f"<section>\n<h2>{html.escape(title)}</h2>\n{paragraph}\n{body}\n</section>"


def paragraphs(texts: list[str]) -> str:
    """Texts below each other."""
    return "\n".join(f"<p>{html.escape(text)}</p>" for text in texts)


def figure(url: str, title: str, text: str, *, alt: str = "", wide: bool = False) -> str:
    """An image and a short explanation to its right, or above it when `wide`."""
    words = f"<p>{html.escape(text)}</p>" if text else ""
    caption = f"<figcaption><h3>{html.escape(title)}</h3>{words}</figcaption>"
    image = f'<div class="image"><img src="{url}" alt="{html.escape(alt or title)}"></div>'
    if wide:
        return f'<figure class="wide">{caption}{image}</figure>'
    return f"<figure>{image}{caption}</figure>"


def table(
    caption: str,
    header: list[str],
    rows: list[list[str]],
    groups: list[tuple[str, int]] | None = None,
) -> str:
    """A table; `groups` are (title, columns) above the header; `value|note` adds small print."""
    parts = [f"<caption>{html.escape(caption)}</caption>"] if caption else []
    if groups:
        spans = (f'<th colspan="{columns}">{html.escape(name)}</th>' for name, columns in groups)
        parts.append(f'<tr class="groups">{"".join(spans)}</tr>')
    if any(header):
        parts.append(f"<tr>{''.join(f'<th>{html.escape(name)}</th>' for name in header)}</tr>")
    parts.append("<tbody>")
    for row in rows:
        kind = ' class="chance"' if row[0] == "chance" else ""
        parts.append(f"<tr{kind}>{''.join(_cell(text) for text in row)}</tr>")
    kind = "" if any(header) else " plain"
    return f'<div class="table{kind}"><table>{"".join(parts)}</tbody></table></div>'


def _cell(text: str) -> str:
    value, _, note = text.partition("|")
    small = f"<small>{html.escape(note)}</small>" if note else ""
    return f"<td>{html.escape(value)}{small}</td>"
