"""What the README says of the code is so: every name in its table exists, every flag and module in its commands too."""

import ast
import importlib
import io
import re
import subprocess
import sys
import tokenize

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`(selfrefine(?:\.\w+)+)`", README)))
BLOCKS = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
COMMANDS = sorted(set(re.findall(r"(?:python )(-m selfrefine\.\w+|\w+\.py)", BLOCKS)))


def test_the_table_names_every_equation():
    for what in ("L_inst", "Eqs. 1 and 3", "Eq. 2", "Eq. 4", "Eq. 5", "Tables 2 and 3", "§3.2.1"):
        assert re.search(rf"^\| [^|]*{re.escape(what)}", README, re.MULTILINE), what


@pytest.mark.parametrize("name", NAMES)
def test_every_name_exists(name):
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[cut:]:
            found = getattr(found, attribute)
        return
    pytest.fail(f"{name} is nowhere")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_exists(command):
    """Each flag that a command line of the README gives is in that command's --help."""
    shown = subprocess.run(
        [sys.executable, *command.split(), "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    lines = [line.split("#")[0] for line in BLOCKS.split("\n") if f"python {command} " in line]
    assert lines
    for flag in {flag for line in lines for flag in re.findall(r"--[a-z][a-z-]+", line.split(command)[1])}:
        assert re.search(rf"{flag}\b", shown), flag


def test_the_path_to_the_gradient_is_as_short_as_it_says():
    """The files of "Follow a DPO step", their lines of code without docstrings, comments and blanks: at most five files
    and 450 lines, and the number that stands there."""
    section = README.partition("### Follow a DPO step")[2].partition("\n### ")[0]
    files = re.findall(r"^\| \[([\w/.]+)\]", section, re.MULTILINE)
    told = re.search(r"(\d+) lines of code", section)
    count = sum(map(code_lines, files))
    assert len(files) <= 5 and int(told[1]) == count <= 450
    assert not re.search("autograd.Function|\\.backward\\(.*gradient", "".join((ROOT / f).read_text() for f in files))


def code_lines(name: str) -> int:
    """Lines of a file that hold code."""
    source = (ROOT / name).read_text(encoding="utf-8")
    held = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            held |= set(range(token.start[0], token.end[0] + 1)) if token.type != tokenize.ENDMARKER else set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            held -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(held)


def test_the_drawing_of_the_house_is_the_house():
    """Every file and folder of the package's first floor, and nothing that is not there."""
    drawn = README.partition("### The house")[2].partition("```")[2].partition("```")[0]
    names = set(re.findall(r"\b(\w+\.py|\w+/)(?=\s|$)", drawn)) - {"selfrefine/"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    inside = {re.sub(r"^selfrefine/(\w+/|).*", r"\1", path) or path.removeprefix("selfrefine/") for path in tracked
              if path.startswith("selfrefine/")}  # fmt: skip
    scripts = {path for path in tracked if re.fullmatch(r"\w+\.py", path)}
    assert names == (inside | scripts) - {"__init__.py"}


def test_no_function_is_long():
    """80 lines at most, and main under 110."""
    for path in [*(ROOT / "selfrefine").rglob("*.py"), *ROOT.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < (110 if node.name == "main" else 80), (path, node.name)
