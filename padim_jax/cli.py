"""The ``padim`` command; it and its commands are all that prints, and it alone exits."""

import io
import os
import sys
import traceback
from functools import partial

import click

from padim_jax.commands.lazy_click import Entry, LazyGroup
from padim_jax.commands.options import debug_option
from padim_jax.commands.terminal import say

DONE, FAILED, WRONG_USE = 0, 1, 2


_HERE = "padim_jax.commands"
COMMANDS = {
    "fit": Entry(f"{_HERE}.making:fit_command", "padim fit GOOD_DIR --out MODEL", "learn from a folder of good images"),
    "score": Entry(
        f"{_HERE}.judging:score_command",
        "padim score MODEL PATH... --out DIR",
        "score new images, with a heat map each",
    ),
    "fit-many": Entry(
        f"{_HERE}.making:fit_many_command",
        "padim fit-many TABLE --out MODELS",
        "fit a model for every line of a table",
    ),
    "score-many": Entry(
        f"{_HERE}.judging:score_many_command",
        "padim score-many MODELS TABLE --out DIR",
        "score each image by the model it belongs to",
    ),
    "calibrate": Entry(
        f"{_HERE}.changing:calibrate_command",
        "padim calibrate MODEL GOOD_DIR",
        "p-values and thresholds, from good images alone",
    ),
    "update": Entry(
        f"{_HERE}.changing:update_command", "padim update MODEL NEW_GOOD_DIR", "learn from more good images"
    ),
    "merge": Entry(
        f"{_HERE}.changing:merge_command", "padim merge MODEL OTHER... --out MODEL", "join models, as if fitted as one"
    ),
    "forget": Entry(f"{_HERE}.changing:forget_command", "padim forget MODEL DIR", "take images out of a model again"),
    "undo": Entry(
        f"{_HERE}.changing:undo_command", "padim undo MODEL", "bring a model back as it was before its last change"
    ),
    "compact": Entry(
        f"{_HERE}.making:compact_command",
        "padim compact MODEL --out SMALL",
        "the smallest form within a stated error",
    ),
    "estimate": Entry(
        f"{_HERE}.looking:estimate_command",
        "padim estimate [GOOD_DIR]",
        "memory, disk and seconds a fit and a score will take",
    ),
    "inspect": Entry(
        f"{_HERE}.looking:inspect_command",
        "padim inspect FOLDER_OR_MODEL",
        "likely mistakes among good images; the facts of a model",
    ),
    "evaluate": Entry(
        f"{_HERE}.judging:evaluate_command",
        "padim evaluate FOLDER --out DIR",
        "measure it on good and defective images, with a report",
    ),
    "report": Entry(f"{_HERE}.judging:report_command", "padim report DIR", "write the reports of an evaluation anew"),
    "demo": Entry(f"{_HERE}.looking:demo_command", "padim demo", "fit and score real solar cells"),
    "guide": Entry(f"{_HERE}.looking:guide_command", "padim guide [TOPIC]", "read the user's guide, without a network"),
}


@click.group(
    cls=LazyGroup,
    entries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong use.",
)
@click.version_option(package_name="padim-jax", prog_name="padim")
@debug_option
def app() -> None:
    """Find defects after seeing good parts only (PaDiM, arXiv 2011.08785)."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; errors take one line, ``--debug`` adds the traceback. Gives the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    _say_anything()
    fail = partial(_fail, "--debug" in given)
    try:
        app.main(args=given, prog_name="padim", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        return WRONG_USE
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "padim"
        return fail(f"{command}: {error.format_message()} (see {command} --help)", WRONG_USE)
    except click.ClickException as error:
        return fail(error.format_message(), FAILED)
    except (KeyboardInterrupt, click.Abort):
        return fail("interrupted", FAILED)
    except (ValueError, OSError, ArithmeticError, ImportError, MemoryError) as error:
        return fail(str(error) or type(error).__name__, FAILED)
    except Exception as error:  # a defect of ours must not greet a user with a traceback either
        return fail(f"internal error, {type(error).__name__}: {error} (--debug shows where)", FAILED)
    return DONE


def _say_anything() -> None:
    """Let no letter that the terminal's code page lacks, in a help text or a file name, end a command: escape it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(debug: bool, message: str, code: int) -> int:
    if debug:
        for line in traceback.format_exc().splitlines():
            say(line)
    first, *more = message.split("\n  ")  # an error that lists entries indents them
    say(f"padim: error: {first}" + (f" … and {len(more)} more lines (--debug shows them)" if more else ""))
    sys.stdout.flush()
    if "padim_jax.mesh.processes" in sys.modules:  # there are no others to leave before
        from padim_jax.mesh.processes import await_last_words

        if await_last_words():
            os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
