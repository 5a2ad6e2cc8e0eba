"""What to do where a runtime takes another pose of an image than the model does, in words.

Where two poses fit an image almost equally well, the last bit of a sum decides between them, and runtimes add up in
other orders. The maps of that image differ then, and those of all others do not.
"""

from collections.abc import Mapping, Sequence

from padim_jax.export.certify import Comparison
from padim_jax.runs.inputs import image_paths, paths_or_arrays

_SHOWN = 5  # images that are named


def advice_by_runtime(call: str, comparisons: Sequence[Comparison], images: object) -> Mapping[str, str]:
    """What to do about the images that stray in a runtime, by its name; none where others than the given stray too.

    Args:
      call: that errors name.
      comparisons: of the program of a model that aligns images, after all images.
      images: as they were given, but not an iterator that is used up: of that, numbers are named and no files.
    """
    found = dict[str, str]()
    for comparison in comparisons:
        if comparison.strayed and not comparison.others_strayed:
            names = _names(call, images, comparison.strayed)
            one = len(comparison.strayed) == 1
            found[comparison.runtime.name] = (
                f"It is off on {len(comparison.strayed)} of the {comparison.given} images named: {names}. The model "
                "aligns images, and where two poses fit one almost equally well, a runtime may take the other pose: "
                f"leave {'that image' if one else 'those images'} out of the command, and the rest can be certified. "
                "Such an image can get another map and score on the line than here"
            )
    return found


def _names(call: str, images: object, places: Sequence[int]) -> str:
    files = None
    if isinstance(images, str | list | tuple) or hasattr(images, "__fspath__"):
        files, _ = paths_or_arrays(call, images)
    paths = None if files is None else image_paths(call, files)
    names = [f"number {place + 1}" if paths is None else str(paths[place]) for place in places[:_SHOWN]]
    return ", ".join(names) + (f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else "")
