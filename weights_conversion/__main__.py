"""``python -m weights_conversion SRC DST``: convert a checkpoint once, from the shell."""

import argparse
import sys
from pathlib import Path

import safetensors.numpy

from weights_conversion import ARCHITECTURES, convert, flatten, identify, read_checkpoint
from weights_conversion.atomic import write_atomically


def main(arguments: list[str] | None = None) -> int:
    """Convert SRC to DST; 0 when done, 1 with one line on standard error when not (argparse exits 2)."""
    parser = argparse.ArgumentParser(
        prog="python -m weights_conversion",
        description="Convert a PyTorch checkpoint (.pth, .safetensors) to the parameters padim_jax loads, "
        "with batch norm folded in and the layers past the last tap dropped. Nothing in SRC is executed.",
    )
    parser.add_argument("source", metavar="SRC", type=Path, help="checkpoint to read (.pth or .safetensors)")
    parser.add_argument("destination", metavar="DST", type=Path, help="file to write (.safetensors)")
    parser.add_argument("--backbone", choices=sorted(ARCHITECTURES), help="default: recognised by its entries")
    parser.add_argument("--sha256", metavar="HEX", help="expected digest of SRC, or its first 8 or more digits")
    options = parser.parse_args(arguments)
    if options.destination.suffix != ".safetensors":
        parser.error(f"DST must end in .safetensors, got {options.destination}")
    try:
        state_dict = read_checkpoint(options.source, options.sha256)
        backbone = options.backbone or identify(state_dict)
        parameters = flatten(convert(backbone, state_dict))
        write_atomically(options.destination, safetensors.numpy.save(parameters, metadata={"backbone": backbone}))
    except (ValueError, OSError) as error:
        first_line, *other_lines = str(error).splitlines()
        suffix = f" … and {len(other_lines)} more lines (convert() raises them all)" if other_lines else ""
        print(f"weights_conversion: error: {first_line}{suffix}", file=sys.stderr)
        return 1
    count = sum(array.size for array in parameters.values())
    print(f"{options.destination}: {backbone}, {len(parameters)} arrays, {count:,} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
