"""The ``padim`` command; it and its commands are all that prints, and it alone exits."""

import logging
import os
import sys
import traceback
from functools import partial
from importlib.metadata import version

import click
import jax

from padim_jax.backbones.weights import cache_folder
from padim_jax.commands.calibrate import calibrate_command
from padim_jax.commands.compact import compact_command
from padim_jax.commands.demo import demo_command
from padim_jax.commands.estimate import estimate_command
from padim_jax.commands.evaluate import evaluate_command, report_command
from padim_jax.commands.fit import fit_command
from padim_jax.commands.fit_many import fit_many_command
from padim_jax.commands.inspect import inspect_command
from padim_jax.commands.score import score_command
from padim_jax.commands.score_many import score_many_command
from padim_jax.commands.terminal import debug_option, say
from padim_jax.commands.update import forget_command, merge_command, undo_command, update_command
from padim_jax.processes import leave

DONE, FAILED, WRONG_USE = 0, 1, 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("padim-jax"), prog_name="padim")
@debug_option
def app() -> None:
    """Find defects after seeing good parts only (PaDiM, arXiv 2011.08785).

    \b
      padim fit GOOD_DIR --out MODEL        learn from a folder of good images
      padim score MODEL PATH... --out DIR   score new images, with a heat map each
      padim fit-many TABLE --out MODELS     fit a model for every line of a table
      padim score-many MODELS TABLE --out DIR   score each image by the model it belongs to
      padim calibrate MODEL GOOD_DIR        p-values and thresholds, from good images alone
      padim update MODEL NEW_GOOD_DIR       learn from more good images
      padim merge MODEL OTHER --out MODEL   join two models; padim forget MODEL DIR takes images out
      padim undo MODEL                      bring back what the last change replaced
      padim compact MODEL --out SMALL       the smallest form within a stated error
      padim estimate [GOOD_DIR]             memory, disk and seconds a fit and a score will take
      padim inspect FOLDER_OR_MODEL         likely mistakes among good images; the facts of a model
      padim evaluate FOLDER --out DIR       measure it on good and defective images, with a report
      padim report DIR                      write the reports of an evaluation anew
      padim demo                            fit and score real solar cells

    Exit codes: 0 done, 1 failed, 2 wrong use.
    """  # noqa: D301 - click wants the character itself


for command in (
    fit_command,
    fit_many_command,
    score_command,
    score_many_command,
    calibrate_command,
    update_command,
    merge_command,
    forget_command,
    undo_command,
    compact_command,
    estimate_command,
    inspect_command,
    evaluate_command,
    report_command,
    demo_command,
):
    app.add_command(command)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; errors take one line, ``--debug`` adds the traceback. Gives the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    _keep_compiled()
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax's warnings; what matters comes as an error
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


def _keep_compiled() -> None:
    """Keep compiled programs in the cache folder, so that the next process starts without compiling them.

    JAX files them under a digest of program, versions and processor; ``JAX_COMPILATION_CACHE_DIR`` moves them. A folder
    that can't be written only costs the time to compile.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small programs are many


def _fail(debug: bool, message: str, code: int) -> int:
    if debug:
        traceback.print_exc()
    first, *more = message.split("\n  ")  # an error that lists entries indents them
    say(f"padim: error: {first}" + (f" … and {len(more)} more lines (--debug shows them)" if more else ""))
    sys.stdout.flush()
    leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
