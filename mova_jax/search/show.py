"""Answers as text for people, and as JSON for programs."""

import json
from collections.abc import Sequence

from mova_jax.search.query import Answer


def as_text(answers: Sequence[Answer]) -> str:
    """Rank, score, path and length of each video, and below it the seconds of each sentence.

    1  0.312  holiday/day2.mp4  12:41
         00:10 to 00:25  A dog jumps.
    """
    lines = []
    for answer in answers:
        entry = answer.entry
        path = printable(entry.source)
        lines.append(f"{answer.rank:3}  {answer.score:6.3f}  {path}  {clock(entry.duration)}")
        lines += [
            f"       {clock(m.start)} to {clock(m.end)}  {printable(m.text)}"
            for m in answer.moments
        ]
        lines += [f"       also {printable(path)}" for path in answer.other_paths]
    return "\n".join(lines)


def as_json(answers: Sequence[Answer]) -> str:
    """A list of objects: rank, score, id, path, duration, moments (seconds), copies (paths)."""
    found = [
        {
            "rank": answer.rank,
            "score": round(answer.score, 6),
            "id": answer.entry.id,
            "path": answer.entry.source,
            "duration": round(answer.entry.duration, 3),
            "moments": [
                {
                    "text": moment.text,
                    "start": round(moment.start, 3),
                    "end": round(moment.end, 3),
                    "score": round(moment.score, 6),
                }
                for moment in answer.moments
            ],
            "copies": answer.other_paths,
        }
        for answer in answers
    ]
    return json.dumps(found, indent=2)


def clock(seconds: float) -> str:
    """`mm:ss`, or `h:mm:ss` from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def printable(text: str) -> str:
    """A name or text without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
