"""Problems of a configuration: all of them in one error, each with a hint."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """All that is wrong with a configuration, one line each."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"the configuration has {len(problems)} problem(s):\n{lines}")


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The known name that the user may have meant, or all of them, for the end of a problem."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {prefix}{close[0]}?"
    return f"; there are: {', '.join(prefix + k for k in known)}"
