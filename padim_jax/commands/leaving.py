"""The command lines of the commands that take models out of the door."""

from pathlib import Path

import click

from padim_jax.commands.lazy_click import Command
from padim_jax.commands.options import debug_option

_images = click.argument("images", nargs=-1, type=click.Path(exists=True, path_type=Path))


@click.command(
    "export",
    cls=Command,
    example="padim export bracket.padim good_parts/ --out bracket-onnx",
    place="padim_jax.commands.export:export_command",
)
@click.argument("model", type=click.Path(path_type=Path))
@_images
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write.")
@click.option(
    "--format",
    "exported",
    type=click.Choice(["onnx", "openvino", "stablehlo"]),
    default="onnx",
    show_default=True,
    help="For ONNX Runtime, OpenVINO and others; OpenVINO's own; or for JAX on CPU, CUDA and TPU.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "int8", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the network. Other than float32, the model is fitted and calibrated anew on the IMAGES.",
)
@click.option(
    "--batch", type=click.IntRange(1), help="Images that the program takes at a time. Default: any; stablehlo, 1."
)
@click.option(
    "--input",
    "taken",
    type=(click.Choice(["photo"]), click.IntRange(1), click.IntRange(1)),
    metavar="photo HEIGHT WIDTH",
    help="Have the program take photos of this size, which it resizes and crops. Default: images of the crop's size.",
)
@click.option(
    "--runtime",
    "runtimes",
    type=click.Choice(["browser", "javascript", "cpp", "csharp"]),
    multiple=True,
    help="Add a folder that runs the program without Python: a page, Node.js, C++ or C#. Can be repeated.",
)
@click.option(
    "--ort-web",
    type=click.Path(exists=True, path_type=Path),
    help="For browser: the file that `npm pack onnxruntime-web@1.30.0` writes, or the package's folder.",
)
@debug_option
def export_command() -> None:
    """Write MODEL as a program for other runtimes, with a certificate that it gives what MODEL gives.

    The program takes uint8 RGB images of the crop's size, or with --input photo HEIGHT WIDTH upright photos of that
    size, which it resizes and crops as padim does, to the last bit; maps are of the crop's size in both. It gives
    scores, maps and, of a calibrated model, p-values, verdicts and masks. Every installed runtime is compared with
    MODEL on black, white, noisy and saturated images, and on the good IMAGES named; where one is off by more than 1e-4
    of the map's scale, nothing is written. With --precision int8 that holds for the runtime of --format; another may be
    off by 0.1, and where it is off by more, a warning says not to run the program in it. --out/certificate.json says
    what was compared and how far each was off, and has a digest of every file. A compact MODEL stays as small in an
    ONNX file; StableHLO has its numbers in 32 bits. An earlier export in --out is replaced, but nothing else that lies
    there. With --runtime, --out/examples holds the first three of IMAGES, as the network sees them, and two others,
    with their scores; each of the folders reads and scores photos as padim does.

    Needs the extra export, and --format openvino the extra openvino; --format stablehlo needs none.
    """


@click.command(
    "verify",
    cls=Command,
    example="padim verify bracket-onnx good_parts/",
    place="padim_jax.commands.export:verify_command",
)
@click.argument("export", type=click.Path(path_type=Path))
@_images
@click.option("--model", type=click.Path(path_type=Path), help="The model it was made from, to compare with.")
@debug_option
def verify_command() -> None:
    """Check EXPORT on this machine: its files, its certificate, and what the runtimes here give.

    A file that was changed, is missing or was added is refused, and so is a certificate that was edited. Then every
    installed runtime runs the images that are stored with EXPORT, and IMAGES: those that it was certified on are known
    by their pixels and compared with what MODEL said. A runtime that must not run EXPORT is not run, and a warning
    names it. A certificate is not signed: whoever makes one anew, together with its files, is found out by --model
    alone. With it, nothing that is stored of the program is believed: MODEL itself says what is right of IMAGES and of
    black, white, noisy and saturated ones, and which verdicts follow. What the program does with other images is not
    shown by that. Folders of --runtime are known by their digests alone.
    """


@click.command(
    "push",
    cls=Command,
    example="padim push bracket.padim example/bracket",
    place="padim_jax.commands.hub:push_command",
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo")
@click.option("--public", is_flag=True, help="Let everybody see it. Default: a new repository is private.")
@debug_option
def push_command() -> None:
    """Put FOLDER, a model or an export, into REPO (OWNER/NAME) of the Hugging Face Hub, with a card about it.

    FOLDER is checked first, then goes there in one commit, and takes the place of what padim pushed before; earlier
    commits keep that. A repository with anything else in it is refused. A model holds no image, but numbers computed
    from good ones, and with --align their mean: keep REPO private unless everybody may see that.

    Needs the extra hub, and a token: `hf auth login`, or HF_TOKEN. HF_ENDPOINT names another server.
    """


@click.command(
    "pull",
    cls=Command,
    example="padim pull example/bracket --out bracket.padim",
    place="padim_jax.commands.hub:pull_command",
)
@click.argument("repo")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write.")
@click.option("--revision", help="Branch, tag or commit; a commit names the very files. Default: the newest.")
@debug_option
def pull_command() -> None:
    """Bring a model or an export from REPO (OWNER/NAME) of the Hugging Face Hub to --out, once all of it is checked.

    Anybody may have filled a repository: only files that a model or an export has are taken, none is unpickled, and
    reading them executes nothing. They are downloaded beside --out and checked there, by checksums, by shapes and
    against the digest on the card; where anything is wrong, nothing is left. An earlier export in --out is replaced,
    and nothing else is.

    Needs the extra hub, and of a private repository a token. HF_ENDPOINT names another server.
    """
