"""The suite `montage`: makes or opens the galleries, asks the model, and sums up."""

import json

from mova_jax.data.annotations import InputError
from mova_jax.suites.montage.ask import ask
from mova_jax.suites.montage.galleries import Gallery, galleries
from mova_jax.suites.montage.verdict import curves, tables, verdict
from mova_jax.suites.suite import Suite, SuiteInput, SuiteResult
from mova_jax.training.load_model import with_parts
from mova_jax.training.workdir import RunError
from mova_jax.utils import atomic
from mova_jax.utils.progress_bar import bar_of

TEXT = (
    "Long videos are made of captioned pictures or clips: each is shown for 5 to 15 seconds, the "
    "caption names four of them, and the others are there to be ignored. Pixels and sentences are "
    "real; only the length changes. Single pictures say how good the towers are. The first "
    "folder of --data is the domain of the model, the others are other domains."
)


def montage(suite: SuiteInput) -> SuiteResult:
    """Asks the model about every gallery; figures that are there already are not asked again.

    Raises:
        RunError: there are no data to ask about, or they cannot be used.
        ShardError: shards cannot be read or written.
    """
    model = with_parts(suite.model)
    try:
        found = galleries(suite.data, suite.cache, model.config.model.vision.image_size, suite.seed)
    except InputError as error:
        raise RunError(str(error)) from error
    weight, how = model.blend_weight, "chosen in training"
    if weight is None:
        weight, how = _tuned(suite, model, found)
    figures = []
    asked = [gallery for gallery in found if not gallery.tuning]
    for gallery in bar_of("galleries", len(asked), asked, unit="gallery"):
        figures.append(_asked(suite, model, gallery, weight))
    blended = f"The blend is global + {weight:g} x by parts ({how}). "
    protocol = (
        f"T2V. {', '.join(dict.fromkeys(gallery.domain for gallery in asked))}, split test, seed "
        f"{suite.seed}; a named item is in one video of its gallery only, and the galleries of a "
        f"domain name the same ones. Frames of {model.config.model.vision.image_size} pixels. "
        f"{blended}Most data of captioned pictures allow research use only."
    )
    return SuiteResult(
        verdict(figures, suite.seed),
        protocol,
        tables(figures, suite.seed),
        curves(figures, suite.seed),
    )


def _tuned(suite: SuiteInput, model, found: list[Gallery]) -> tuple[float, str]:
    """The weight of the blend for a model that has none, and how it was found."""
    for gallery in found:
        if gallery.tuning and gallery.domain == found[0].domain:
            weight = _asked(suite, model, gallery, None)["weight"]
            return weight, f"chosen on {gallery.split} of {gallery.domain}, {gallery.items:g} items"
    return 1.0, "not chosen, for there is no validation split"


def _asked(suite: SuiteInput, model, gallery: Gallery, weight: float | None) -> dict:
    """The figures of a gallery, from its file where they are there."""
    file = suite.output / "figures" / f"{gallery.name}.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    figures = ask(model, suite.mesh, gallery, weight)
    atomic.write_text(file, json.dumps(figures))
    return figures


SUITE = Suite(montage, "Montage: length, with real pixels and real sentences", TEXT)
