"""A model whose network is in another precision: fitted anew, and with factors in integers where they can be."""

from dataclasses import replace
from typing import Any

from padim_jax.artifact.compaction import compact
from padim_jax.artifact.layouts import form_of
from padim_jax.export.describe import ExportError
from padim_jax.export.inputs import ProgramInput
from padim_jax.export.integer_factors import FactorsKept, in_integers
from padim_jax.export.named import Named
from padim_jax.export.onnx_model import check_exportable
from padim_jax.export.program_model import ProgramModel, open_model
from padim_jax.export.refitting import refit, usual_score
from padim_jax.export.runtimes import FORMATS, Format, Precision
from padim_jax.runs.inputs import paths_or_arrays

_CALL = "export_model"
_MAX_ERROR = 1e-2  # of distances, by factors of 16 bits: eight bits in the network are off by more


def in_precision(
    given: ProgramModel, precision: Precision, format: Format, taken: ProgramInput, images: object
) -> tuple[ProgramModel, Any]:
    """The model fitted anew on its network in a precision, and the images, which can be read once more.

    With a network in eight bits, factors are integers too where they can be; else they are in 16 bits where they were.

    Args:
      given: the model, with a network of 32 bits.
      precision: of the network, "int8" or "bfloat16".
      format: of the program.
      taken: what the program takes.
      images: good ones.

    Raises:
      ExportError: a precision that the format does not have; a model that has no graph; images that
        score much higher than the model's own good ones; and as of :func:`padim_jax.export.refitting.refit`.
    """
    if format not in (formats := FORMATS[precision]):
        wanted = " or ".join(map(repr, formats))
        raise ExportError(f"{_CALL}: precision={precision!r} takes format={wanted}, and {format!r} was asked for")
    check_exportable(given.model)
    places, arrays = paths_or_arrays(_CALL, images)
    if taken.photo is None or places is None:
        images = list(taken.read(_CALL, arrays if places is None else places))
    else:
        images = places  # photos are large, and are read a second time
    named = Named(f"{_CALL}: precision={precision!r}", places, given.weights)
    good = [taken.seen(batch) for batch in taken.read(_CALL, images, lambda path, text: None)]
    named.check_good(given.model, good)
    fitted = refit(given.model, good, precision, format)
    notes, usual = named.notes(given.model, fitted, sum(map(len, good))), usual_score(fitted, good)
    if form_of(given.model.gaussian)[0] == "low-rank":
        notes.append("the model was of low rank, and is not any more, since it was fitted anew")
    if precision == "int8":
        try:
            found = in_integers(fitted)
            return replace(found, notes=(*notes, *found.notes), usual=usual), images
        except FactorsKept as reason:
            notes.append(f"factors are not in integers: {reason}")
    found = ProgramModel(fitted) if given.quantised is None else open_model(compact(fitted, _MAX_ERROR))
    return replace(found, notes=tuple(notes), usual=usual), images
