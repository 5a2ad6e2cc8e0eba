"""The tutorial as a notebook. ``python -m tests.notebook`` writes it again after its page has changed."""

import json
import re
from typing import Any

from tests.documents import DOCUMENTS, text_of

NOTEBOOK = DOCUMENTS["tutorial"].with_suffix(".ipynb")
_RUN = re.compile(r"^```(python|sh run)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebook() -> str:
    """The notebook that the tutorial's page makes: blocks that are run are cells of code, all else is Markdown."""
    prose, *rest = _RUN.split(text_of("tutorial"))
    cells = [_cell("markdown", prose)]
    for kind, code, prose in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        shell = kind != "python"
        cells.append(_cell("code", re.sub(r"^(?=.)", "!", code, flags=re.MULTILINE) if shell else code))
        cells.append(_cell("markdown", prose))
    numbered = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)]
    content = {"cells": numbered, "metadata": _METADATA, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _cell(kind: str, text: str) -> dict[str, Any]:
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": text.strip().splitlines(keepends=True), **code}


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(), encoding="utf-8")
