"""The ``padim`` command; only it and its commands print, and it alone exits."""

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

_ROOT = "padim_jax.commands"
COMMANDS = {
    "fit": Entry(f"{_ROOT}.making:fit_command", "padim fit GOOD_DIR --out MODEL", "learn from a folder of good images"),
    "score": Entry(
        f"{_ROOT}.judging:score_command",
        "padim score MODEL PATH... --out DIR",
        "score new images, with a heat map each",
    ),
    "fit-many": Entry(
        f"{_ROOT}.making:fit_many_command",
        "padim fit-many TABLE --out MODELS",
        "fit a model for every line of a table",
    ),
    "score-many": Entry(
        f"{_ROOT}.judging:score_many_command",
        "padim score-many MODELS TABLE --out DIR",
        "score each image by the model it belongs to",
    ),
    "watch": Entry(
        f"{_ROOT}.lines:watch_command",
        "padim watch SOURCE --model MODEL --store STORE",
        "judge images as they come, each once",
    ),
    "serve": Entry(
        f"{_ROOT}.lines:serve_command",
        "padim serve MODELS --store STORE",
        "judge images over HTTP, with a page to look and correct",
    ),
    "results": Entry(
        f"{_ROOT}.lines:results_command", "padim results STORE", "decisions of a line: find, count and export them"
    ),
    "drift": Entry(
        f"{_ROOT}.lines:drift_command", "padim drift STORE", "whether images have drifted, in what and since when"
    ),
    "calibrate": Entry(
        f"{_ROOT}.changing:calibrate_command",
        "padim calibrate MODEL GOOD_DIR",
        "p-values and thresholds, from good images alone",
    ),
    "update": Entry(
        f"{_ROOT}.changing:update_command", "padim update MODEL NEW_GOOD_DIR", "learn from more good images"
    ),
    "merge": Entry(
        f"{_ROOT}.changing:merge_command", "padim merge MODEL OTHER... --out MODEL", "join models, as if fitted as one"
    ),
    "forget": Entry(f"{_ROOT}.changing:forget_command", "padim forget MODEL DIR", "take images out of a model again"),
    "undo": Entry(
        f"{_ROOT}.changing:undo_command", "padim undo MODEL", "bring a model back as it was before its last change"
    ),
    "compact": Entry(
        f"{_ROOT}.making:compact_command",
        "padim compact MODEL --out SMALL",
        "the smallest form within a stated error",
    ),
    "import": Entry(
        f"{_ROOT}.making:import_command",
        "padim import CHECKPOINT --out MODEL",
        "a model that anomalib fitted, to score and calibrate here",
    ),
    "export": Entry(
        f"{_ROOT}.leaving:export_command",
        "padim export MODEL --out DIR",
        "a program for other runtimes, with proof that it is equal",
    ),
    "verify": Entry(f"{_ROOT}.leaving:verify_command", "padim verify DIR", "check an export on this machine"),
    "push": Entry(
        f"{_ROOT}.leaving:push_command", "padim push FOLDER REPO", "a model or an export to the Hugging Face Hub"
    ),
    "pull": Entry(
        f"{_ROOT}.leaving:pull_command", "padim pull REPO --out DIR", "one from there, checked before it is used"
    ),
    "estimate": Entry(
        f"{_ROOT}.looking:estimate_command",
        "padim estimate [GOOD_DIR]",
        "memory, disk and seconds a fit and a score will take",
    ),
    "inspect": Entry(
        f"{_ROOT}.looking:inspect_command",
        "padim inspect FOLDER_OR_MODEL",
        "likely mistakes among good images; the facts of a model",
    ),
    "evaluate": Entry(
        f"{_ROOT}.judging:evaluate_command",
        "padim evaluate [FOLDER] [--out DIR]",
        "measure presets and methods on defects; --table: the paper's",
    ),
    "report": Entry(f"{_ROOT}.judging:report_command", "padim report DIR", "rewrite the reports of an evaluation"),
    "demo": Entry(f"{_ROOT}.looking:demo_command", "padim demo", "fit and score real solar cells"),
    "guide": Entry(f"{_ROOT}.looking:guide_command", "padim guide [TOPIC]", "read the user's guide, without a network"),
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
    """Run the command and return its exit code; errors take one line, and ``--debug`` adds the traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _escape_unprintable()
    fail = partial(_fail, "--debug" in arguments)
    try:
        app.main(args=arguments, prog_name="padim", standalone_mode=False)
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
    except Exception as error:  # a bug of padim must not greet a user with a traceback either
        return fail(f"internal error, {type(error).__name__}: {error} (--debug shows where)", FAILED)
    return DONE


def _escape_unprintable() -> None:
    """Escape letters that the terminal's code page lacks, so that none in a help text or a file name ends a command."""
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
    if "padim_jax.mesh.processes" in sys.modules:  # otherwise no other process waits for this one
        from padim_jax.mesh.processes import await_last_words

        if await_last_words():
            os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
