"""Which runtimes an export may be run in: those within the bound, of which its own has to be one.

In eight bits and in bfloat16 runtimes round otherwise, and the model is fitted on what one of them computes. That one
is held to the bound of 32 bits. Another that strays too far spoils no export, whether it is installed or not: it is
named as unfit. In 32 bits all compute the same, and one that does not says that the program is wrong.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from padim_jax.export.certificate import RuntimeReport
from padim_jax.export.compare import BOUND
from padim_jax.export.describe import ExportError
from padim_jax.export.runtimes import OWN
from padim_jax.export.shipped import runtimes_of

_ADVICE = "Export another format, or report it"


def part_fit(
    call: str,
    reports: Sequence[RuntimeReport],
    exported: str,
    precision: str,
    bound: float,
    advice: Mapping[str, str] | None = None,
) -> tuple[tuple[RuntimeReport, ...], tuple[RuntimeReport, ...]]:
    """The runtimes that a new export may be run in, and those that it must not be.

    Args:
      call: for the messages.
      reports: one for each runtime, of the whole comparison.
      exported: the format.
      precision: of the network.
      bound: of differences relative to the map's scale in runtimes other than the format's own.
      advice: what to do about a runtime that is beyond its bound, by its name, where more is known of it.

    Raises:
      ExportError: the format's own runtime is beyond the bound of 32 bits; or any is in 32 bits; or gives no numbers.
    """
    fit, unfit = list[RuntimeReport](), list[RuntimeReport]()
    for report in reports:
        off, is_own = report.differences.relative, report.name == OWN[exported]
        allowed = BOUND if is_own else bound  # its own computed what the model was fitted on
        if off <= allowed:
            fit.append(report)
        elif may_be_unfit(report, exported, precision):
            unfit.append(report)
        else:
            raise ExportError(
                f"{call}: {report.name} {report.version} is off by {off:.2g} of the maps' scale, beyond the bound of "
                f"{allowed:g}; nothing was written. {(advice or {}).get(report.name, _ADVICE)}"
            )
    return tuple(fit), tuple(unfit)


def may_be_unfit(report: RuntimeReport, exported: str, precision: str) -> bool:
    """Whether being beyond the bound says that a runtime rounds otherwise, and not that the program is wrong."""
    is_number = bool(np.isfinite(report.differences.relative))
    return precision != "float32" and report.name != OWN[exported] and is_number


def refuse_shipped(call: str, targets: Collection[str], unfit: Sequence[RuntimeReport]) -> None:
    """Raise ``ExportError`` where a folder runs the program without Python in a runtime that it must not be run in."""
    for report in unfit:
        if wrong := [target for target, name in runtimes_of(targets).items() if name == report.name]:
            raise ExportError(
                f"{call}: the folder {wrong[0]!r} runs the program in {report.name}, which rounds it otherwise and is "
                f"off by {report.differences.relative:.2g} of the maps' scale, beyond the bound; leave {wrong[0]!r} "
                "out, take 'csharp' or 'javascript', or export with precision='float32'"
            )


def words_of_unfit(report: RuntimeReport, exported: str, bound: float) -> str:
    """Where not to run an export, and why, in a sentence."""
    return (
        f"do not run it in {report.name}, which rounds it otherwise than {OWN[exported]}: {report.version} is off by "
        f"{report.differences.relative:.2g} of the maps' scale, beyond the bound of {bound:g}"
    )
