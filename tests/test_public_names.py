"""What `import seqwright` offers, and how it is found."""

import ast
import inspect
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import seqwright


def test_every_public_name_can_be_imported() -> None:
    for name in seqwright.__all__:
        assert getattr(seqwright, name).__name__ == name


def test_dir_and_completion_show_every_public_name() -> None:
    assert set(seqwright.__all__) <= set(dir(seqwright))
    assert "__version__" in dir(seqwright)


def test_help_shows_every_public_name_with_its_documentation() -> None:
    shown = pydoc.plain(pydoc.render_doc(seqwright))
    for name in seqwright.__all__:
        first_line = str(inspect.getdoc(getattr(seqwright, name))).splitlines()[0]
        assert re.search(rf"^    (class )?{name}\b", shown, re.MULTILINE), name
        assert first_line in shown, name


def test_the_docstring_lists_every_public_name() -> None:
    assert seqwright.__doc__
    assert sorted(re.findall(r"^    (\w+): ", seqwright.__doc__, re.MULTILINE)) == seqwright.__all__


def test_type_checkers_see_the_names_that_are_there_when_it_runs() -> None:
    tree = ast.parse(Path(seqwright.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == seqwright._MODULES
    assert sorted(imported) == seqwright.__all__


def test_import_alone_does_not_import_torch() -> None:
    code = "import sys, seqwright; dir(seqwright); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
