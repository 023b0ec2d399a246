"""Searches an index of videos for a text, a picture or a video, and says which seconds answer.

    python -m mova_jax.search --index index "A dog jumps. It runs to the sea."
    python -m mova_jax.search --index index --file question.txt --top 20 --json
    python -m mova_jax.search --index index --like picture.jpg --in films/2026 --longer 60s
    echo "A dog jumps." | python -m mova_jax.search --index index -
    python -m mova_jax.search --index index --serve

The index is made by python -m mova_jax.embed, and asked with the model that made it. --serve shows
a page at http://127.0.0.1:8000/ for this machine alone (pip install -r requirements-search.txt).

Exit code: 0 done, 1 something is wrong (one message says what), 2 a flag is wrong, 130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mova_jax.utils.command_line import command_parser, local_path
from mova_jax.utils.streams import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, see the module."""
    parser = _parser()
    args = parser.parse_args(argv)
    asked = [bool(args.text), bool(args.file), bool(args.like), args.serve]
    if sum(asked) != 1:
        parser.error("give one of: a text, - for a text from stdin, --file, --like or --serve")
    if not 1 <= args.top:
        parser.error(f"--top: got {args.top}, expected 1 or more")
    # These imports take seconds: flags are checked before.
    from mova_jax.parallel.mesh import MeshError
    from mova_jax.search.filters import QueryError
    from mova_jax.search.store import StoreError
    from mova_jax.training.checkpoint import CheckpointError
    from mova_jax.training.workdir import RunError
    from mova_jax.weights.files import WeightsError

    errors = (StoreError, QueryError, RunError, CheckpointError, WeightsError, MeshError)
    try:
        return _run(args)
    except errors as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename or args.host}: {error.strerror}")
    except KeyboardInterrupt:
        return 130


def _run(args: argparse.Namespace) -> int:
    from mova_jax.search.filters import Filter
    from mova_jax.search.opening import open_searcher
    from mova_jax.search.show import as_json, as_text

    where = Filter.parse(args.folder, args.after, args.before, args.longer, args.shorter)
    text = _text(args)
    if args.serve:
        return _serve(args)
    searcher = open_searcher(args.index, args.model, args.engine)
    question = searcher.like(args.like) if args.like else searcher.question(text)
    answers = searcher.search(question, args.top, where)
    if args.json:
        print(as_json(answers))
    elif answers:
        print(as_text(answers))
    else:
        count = len(searcher.index.entries)
        print(f"none of the {count} videos of {args.index} passes the filters", file=sys.stderr)
    return 0


def _text(args: argparse.Namespace) -> str:
    from mova_jax.search.filters import QueryError

    try:
        if args.file:
            return Path(args.file).read_text(encoding="utf-8")
        return sys.stdin.read() if args.text == "-" else args.text
    except UnicodeDecodeError as error:
        raise QueryError(f"{args.file or 'stdin'}: {error}; expected text in UTF-8") from error


def _serve(args: argparse.Namespace) -> int:
    try:
        from mova_jax.search.page.serve import serve
    except ModuleNotFoundError as error:
        return _fail(f"there is no {error.name}: pip install -r requirements-search.txt")
    from mova_jax.search.opening import Watch, open_searcher
    from mova_jax.search.progress import now_indexing
    from mova_jax.search.service import Library

    watch = Watch(args.index)  # before it is read, so that no change is missed
    searcher = open_searcher(args.index, args.model, args.engine)
    library = Library(searcher, watch, lambda: now_indexing(args.index))
    library.warm_up()
    serve(library, args.host, args.port, tuple(args.name))
    return 0


def _fail(message: str) -> int:
    print(f"search: {message}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m mova_jax.search", __doc__)
    add = parser.add_argument
    add("text", nargs="?", default="", help="what to look for; - reads it from stdin")
    add(
        "--index",
        required=True,
        type=local_path,
        metavar="DIR",
        help="from python -m mova_jax.embed",
    )
    add("--model", default="", help="where the model of the index is now, if it was moved")
    add(
        "--engine",
        default="",
        metavar="URI",
        help="of an engine that has the index, for candidates",
    )
    add("--file", default="", help="a file with the text")
    add("--like", default="", metavar="FILE", help="a picture or a video, in place of a text")
    add("--top", type=int, default=10, help="number of answers")
    add("--in", dest="folder", default="", metavar="FOLDER", help="only videos in this folder")
    add("--after", default="", metavar="DATE", help="added on this day or later, 2026-11-30")
    add("--before", default="", metavar="DATE", help="added before this day")
    add("--longer", default="", metavar="LENGTH", help="at least this long: 90, 60s, 2m or 1.5h")
    add("--shorter", default="", metavar="LENGTH", help="at most this long")
    add("--json", action="store_true", help="answers as JSON")
    add("--serve", action="store_true", help="serves the page")
    add("--host", default="127.0.0.1", help="address that the page is served at")
    add("--port", type=int, default=8000, help="port that the page is served at")
    add("--name", nargs="+", default=[], help="names by which others may open the page")
    return parser


if __name__ == "__main__":
    run_command(main)
