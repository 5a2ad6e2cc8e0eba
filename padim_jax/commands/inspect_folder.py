"""What ``padim inspect`` says of a folder of images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from padim_jax.images.folder import describe
from padim_jax.images.frames import frames_in_words
from padim_jax.inspection.folder import PROPERTIES

_SHOWN = 10  # files on a line; --json and --out have all
_HIGHEST = 5  # scores shown besides those that stand out


def folder_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What :meth:`padim_jax.inspection.FolderInspection.record` says, for a person."""
    counts = record["counts"]
    ignored = f" ({describe(record['ignored'])})" if record["ignored"] else ""
    yield (
        f"{record['folder']}: {counts['images']} images, {counts['unreadable']} unreadable, "
        f"{counts['ignored']} other files ignored{ignored}"
    )
    for name in PROPERTIES:
        yield f"  {name + ':':16}{_list([f'{count} of {value}' for value, count in counts[name].items()])}"
    yield from _section("unreadable", [f"{file['path']}: {file['reason']}" for file in record["unreadable"]])
    notes = [(image["path"], note) for image in record["images"] for note in image["notes"]]
    if not record["decoded"]:
        notes = [
            (image["path"], text)
            for image in record["images"]
            for text in (
                frames_in_words(image["frames"]) * (image["frames"] > 1),
                "alpha channel" * ("alpha" in image["mode"]),
            )
            if text
        ]
    yield from _section("frames and transparency", [f"{path}: {text}" for path, text in notes])
    yield from _section("likely mistakes", list(_mistakes(record)))
    yield from _pose_lines(record["poses"])
    yield from _score_lines(record["leave_one_out"])


def _mistakes(record: Mapping[str, Any]) -> Iterator[str]:
    for group in record["duplicates"]:
        yield f"the same file {len(group)} times: {_list(group)}"
    for group in record["equal_pixels"]:
        yield f"the same pixels in {len(group)} files: {_list(group)}"
    for odd in record["oddities"]:
        others = [f"{path} ({value})" for path, value in odd["images"].items()]
        number = f"{len(others)} of {record['counts']['images']} images"
        yield f"{odd['what']}: {number} differ from the usual {odd['common']}: {_list(others)}"


def _pose_lines(poses: Mapping[str, Any] | None) -> Iterator[str]:
    if poses is None:
        return
    yield ""
    if poses["not_done"]:
        yield f"how the parts lie is not known: {poses['not_done']}"
        return
    shifted = f"parts are shifted by up to {poses['shift']:.1%} of the image's width"
    if poses["angle"]:
        yield (
            f"{shifted} and turned by up to {poses['angle']:.0f}° "
            f"(90% of them within {poses['shift_of_most']:.1%} and {poses['angle_of_most']:.0f}°)"
        )
    else:
        yield f"{shifted} (90% of them within {poses['shift_of_most']:.1%}) and not visibly turned"
    if poses["n_matching"] < poses["n_images"]:
        yield f"  {poses['n_matching']} of {poses['n_images']} images match the others well enough to tell"
    if poses["is_clear"]:
        yield (
            "weak defects may be missed on parts that lie so differently: hold them in a fixture before the camera, "
            f"or fit with --align {'rigid, which turns' if poses['angle'] else 'shift, which moves'} them back, "
            "or --preset lite0-plus, which forgives much of it"
        )


def _score_lines(scores: Mapping[str, Any] | None) -> Iterator[str]:
    yield ""
    if scores is None:
        yield "pixels were not decoded and nothing was scored (--quick)"
        return
    rows = scores["images"]
    if not rows:
        yield f"no leave-one-out scores ({scores['model']}): {scores['not_done']}"
    else:
        n_outliers = sum(row["stands_out"] for row in rows)
        n_unfitted = sum(not row["left_out"] for row in rows)
        yield f"scores of {len(rows)} images, each by the model of all the others ({scores['model']})" + (
            f"; {n_unfitted} were not fitted on" if n_unfitted else ""
        )
        stand, them = ("stands", "it") if n_outliers == 1 else ("stand", "them")
        yield (
            f"{n_outliers} {stand} out (unusually high: above {scores['limit']:.4g}; half of all are below "
            f"{scores['median']:.4g}); look at {them}, and at the highest of the others:"
        )
        yield f"  {'score':>8} {'p':>7} {'row':>6} {'column':>6}"
        for row in rows[: n_outliers + _HIGHEST]:
            yield (
                f"  {row['score']:8.4g} {row['p_value']:7.2g} {row['row']:6} {row['column']:6}  "
                f"{'stands out' if row['stands_out'] else '':10}  {row['path']}"
            )
        yield "p: share of these images that score as much; row and column: the map's maximum, in the image's pixels"
    yield from _section("not scored", [f"{path}: {reason}" for path, reason in scores["not_scored"].items()])


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield f"{title} ({len(lines)})"
        yield from (f"  {line}" for line in lines)


def _list(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
