"""A question to an index of videos, and its answers: the best videos and the seconds that fit.

    searcher = Searcher(model, open_index("index"))
    for answer in searcher.search("A dog jumps. It runs to the sea.", top=10):
        print(answer.rank, answer.entry.source, answer.moments)

The order of work: filter the entries, score all that are left (`scan`), merge near-copies, then
look for the seconds of each sentence in the best.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from mova_jax.data.ingest.video_reader import DecodeError
from mova_jax.data.sentences import split_sentences
from mova_jax.evaluation.grounding import frame_edges, predicted_run
from mova_jax.search.filters import Filter, QueryError
from mova_jax.search.scan import Scan, Scores
from mova_jax.search.store import Entry
from mova_jax.typing import TextEmbedding

SAME = 0.99  # mean cosine of the frames of two videos from which they are near-copies
LONGEST_QUERY = 5000  # characters
MOST_SENTENCES = 32  # that are looked for one by one

ANY = Filter()


class Moment(NamedTuple):
    """The seconds of a video that a sentence fits best."""

    text: str
    start: float  # seconds
    end: float
    score: float  # cosine of its best frame
    heat: Float[np.ndarray, "f"]  # its cosine with each frame


@dataclasses.dataclass(frozen=True)
class Answer:
    """A video that answers a question."""

    rank: int  # from 1
    entry: Entry
    score: float  # the score of record
    moments: tuple[Moment, ...]  # one a sentence
    times: Float[np.ndarray, "f"]  # seconds of the frames
    copies: tuple[Entry, ...] = ()  # other entries of nearly the same video

    @property
    def other_paths(self) -> list[str]:
        """Further files of the same video, or of nearly the same."""
        files = [*self.entry.files[1:], *(file for copy in self.copies for file in copy.files)]
        return [file.path for file in files]


@dataclasses.dataclass(frozen=True)
class Question:
    """What is looked for: sentences, or frames like those of a picture or a video."""

    sentences: tuple[str, ...]
    text: TextEmbedding | None = None  # the whole question, one row
    rows: TextEmbedding | None = None  # each sentence as a text of its own
    vector: Float[np.ndarray, "d"] | None = None  # the mean frame of a picture or a video


class Searcher:
    """A model and an index, ready for questions; used by one thread at a time."""

    def __init__(self, model, index, scan: Scan, engine=None):
        """Compiles nothing yet.

        Args:
            model: from `mova_jax.load`: embeds questions.
            index: from `store.open_index`; may be replaced by a newer one at any time.
            scan: the same model, compiled to score.
            engine: an `engine.Engine` that has the index; without one, all videos are scored.
        """
        self.model, self.index, self.scan, self.engine = model, index, scan, engine

    def question(self, text: str) -> Question:
        """The embedding of a text of one or more sentences.

        Raises:
            QueryError: the text is blank, or longer than `LONGEST_QUERY` characters.
        """
        if len(text) > LONGEST_QUERY:  # before it is divided, which takes long for megabytes
            raise QueryError(
                f"got a text of {len(text)} characters, expected {LONGEST_QUERY} at most: "
                "ask with the part of it that matters"
            )
        sentences = tuple(split_sentences(text))
        if not sentences:
            raise QueryError("got no text, expected a sentence or a paragraph to look for")
        sentences = sentences[:MOST_SENTENCES]
        whole = self.model.embed_text(text)
        rows = parts_as_rows(whole, len(sentences))
        if rows is None:
            rows = self.model.embed_text(list(sentences))
        return Question(sentences, trimmed(whole), trimmed(rows))

    def like(self, path: str) -> Question:
        """A question for frames like those of a picture or a video.

        Raises:
            QueryError: it is neither.
        """
        try:
            vectors = np.asarray(self.model.embed_video(path).vectors, np.float32)
        except DecodeError as error:
            raise QueryError(f"{path}: {error}; expected a picture or a video") from error
        return Question((f"like {path}",), vector=_unit(vectors).mean(0))

    def like_frames(self, frames: Iterable[UInt8[np.ndarray, "H W 3"]], name: str) -> Question:
        """A question for frames like these; `name` says whose they are."""
        vectors = np.asarray(self.model.embed_frames(frames), np.float32)
        return Question((f"like {name}",), vector=_unit(vectors).mean(0))

    def search(
        self, question: str | Question, top: int = 10, where: Filter = ANY
    ) -> tuple[Answer, ...]:
        """The best answers, near-copies merged, the best one first.

        Args:
            question: a text, or from `question` or `like`.
            top: answers at most.
            where: the videos that are asked.

        Raises:
            QueryError: see `question`.
        """
        if isinstance(question, str):
            question = self.question(question)
        entries = [entry for entry in where(self.index.entries) if entry.frames]
        if not entries:
            return ()
        if self.engine is not None:
            entries = self.engine.candidates(vectors_of(question), entries, where != ANY)
        scores = self._scores(entries, question)
        found = []
        for place, copies in self._distinct(entries, scores.best(0), top):
            copies = tuple(entries[copy] for copy in copies)
            score = float(scores.scores[place, 0])
            found.append(self._answer(len(found) + 1, entries[place], score, question, copies))
        return tuple(found)

    def _scores(self, entries, question: Question) -> Scores:
        if question.vector is not None:
            return self.scan.vector(self.index, entries, question.vector)
        return self.scan.texts(self.index, entries, question.text)

    def _answer(self, rank, entry, score, question: Question, copies) -> Answer:
        times = np.asarray(self.index.times(entry.id), np.float32)
        edges = frame_edges(times)
        moments = []
        for text, heat in zip(question.sentences, self._heat(entry, question), strict=True):
            best = int(heat.argmax())
            first, last = predicted_run(heat, best)
            end = min(float(edges[last + 1]), max(entry.duration, float(times[last])))
            moments.append(Moment(text, float(edges[first]), end, float(heat[best]), heat))
        return Answer(rank, entry, score, tuple(moments), times, copies)

    def _heat(self, entry, question: Question) -> Float[np.ndarray, "s f"]:
        """The cosine of each sentence with each frame of a video."""
        if question.vector is not None:
            frames = _unit(np.asarray(self.index.vectors(entry.id), np.float32))
            return (frames @ _unit(question.vector))[None]
        video = self.scan.video(self.index, entry)
        heat = self.scan.fns.frame_cosines(self.scan.params, video, question.rows)
        return heat[:, : entry.frames]

    def _distinct(self, entries, order, top: int) -> Iterator[tuple[int, list[int]]]:
        """Places of the best videos, each with the places of its near-copies.

        Copies are looked for until `top` videos are found and one that is no copy follows.
        """
        kept: list[tuple[int, list[int]]] = []
        for place in order:
            mine = next((c for p, c in kept if self._same(entries[p], entries[place])), None)
            if mine is not None:
                mine.append(int(place))
            elif len(kept) == top:
                break
            else:
                kept.append((int(place), []))
        yield from kept

    def _same(self, one, other) -> bool:
        """Whether two videos have nearly the same frames."""
        if abs(one.frames - other.frames) > 1 + 0.01 * one.frames:
            return False
        count = min(one.frames, other.frames)
        a, b = (
            _unit(np.asarray(self.index.vectors(e.id)[:count], np.float32)) for e in (one, other)
        )
        return float((a * b).sum(-1).mean()) >= SAME


def vectors_of(question: Question) -> Float[np.ndarray, "q d"]:
    """The vectors whose nearest frames are in good answers: of the question and its sentences."""
    if question.vector is not None:
        return question.vector[None]
    text = question.text
    if text.parts is None:
        return np.concatenate([text.pooled, question.rows.pooled])
    return np.concatenate([text.pooled, text.parts.pooled[text.parts.token_mask.any(-1)]])


def trimmed(text: TextEmbedding) -> TextEmbedding:
    """The same with fewer padded parts: the cost of a scan grows with their number.

    A power of two is left, for each number is a program.
    """
    if text.parts is None:
        return text
    most = int(text.parts.token_mask.any(-1).sum(-1).max())
    kept = slice(0, max(1, 1 << (most - 1).bit_length()))
    return dataclasses.replace(text, parts=jax.tree.map(lambda leaf: leaf[:, kept], text.parts))


def parts_as_rows(text: TextEmbedding, sentences: int) -> TextEmbedding | None:
    """The parts of a text as texts of one part each, as if each sentence was embedded alone.

    Their global vectors are those of the parts: no score of a sentence with a frame reads them.
    None where sentences were merged to parts, or the model scores by none.
    """
    if text.parts is None or int(text.parts.token_mask.any(-1).sum()) != sentences:
        return None
    rows = jax.tree.map(lambda leaf: leaf[0, :sentences], text.parts)
    return dataclasses.replace(rows, parts=jax.tree.map(lambda leaf: leaf[:, None], rows))


def _unit(vectors: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
