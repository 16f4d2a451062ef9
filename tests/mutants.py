"""What the tests do not see: small faults put into the code one at a time, each tried against the tests.

    python -m tests.mutants --output runs/mutants.jsonl [--sample 100] [FILE ...]

A fault is an operator, a constant, a condition, an argument or a statement changed in the syntax tree, and never a
text. No source is written: a child process compiles the changed module where the tests import it, and runs the tests
that come by the changed line, the quickest first (`coverage` tells which, once, in the file beside the output). Started
again, the command goes on. But a fault may write wherever its user may (one put a file in the place of /dev/null): not
as root, unless in a container that is thrown away. What survives stands in tests/mutants.md, each with the reason why
it is harmless.
"""

import argparse
import ast
import copy
import importlib
import importlib.abc
import importlib.util
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = ["train_it.py", "train_dpo.py", "evaluate.py", "selfrefine/preferences.py"]
FOLDERS = ["selfrefine/training", "selfrefine/model", "selfrefine/fast"]
TESTS = "losses log_probs schedule fast decoding lora adapter sampling encoding template student preferences splits"
TESTS = [f"tests/test_{name}.py" for name in f"{TESTS} defaults reference_loop evaluate training served".split()]
FIRST = 8  # tests tried before all others, and some of these that hold every number: most faults fall to them
LOOP = "tests/test_reference_loop.py"
HANGS = 1500  # seconds on the clock, after which a fault that makes a test wait has been noticed

# keywords of what is but shown or said to readers, and UTF-8, the default where the tests run
UNSEEN = ["help", "desc", "metavar", "unit", "unit_scale", "total", "initial", "frozen", "encoding"]

SWAPPED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
SWAPPED |= {
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
SWAPPED |= {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
SWAPPED |= {ast.Mod: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST | None]]:
    """What a node may become, None for nothing at all; (name, replacement) each."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield "compare", ast.Compare(node.left, [SWAPPED[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield "and/or", ast.BoolOp(SWAPPED[type(node.op)](), node.values)
        yield from ((f"only part {n}", value) for n, value in enumerate(node.values))
    elif isinstance(node, ast.BinOp) and type(node.op) in SWAPPED and not _texts(node):
        yield "operator", ast.BinOp(node.left, SWAPPED[type(node.op)](), node.right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield "no sign", node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "flipped", ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield "more", ast.Constant(node.value + 1)
        if abs(node.value) > 1 or 0 < abs(node.value) < 1:
            yield "half", ast.Constant(type(node.value)(node.value / 2))
    elif isinstance(node, ast.IfExp):
        yield from (("always", node.body), ("never", node.orelse))
    elif isinstance(node, ast.If | ast.While):
        turned = copy.copy(node)
        turned.test = ast.UnaryOp(ast.Not(), node.test)
        yield "negated", turned
    elif isinstance(node, ast.comprehension) and node.ifs:
        yield "no if", ast.comprehension(node.target, node.iter, [], node.is_async)
    elif isinstance(node, ast.AugAssign) and type(node.op) in SWAPPED:
        yield "augmented", ast.AugAssign(node.target, SWAPPED[type(node.op)](), node.value)
    elif isinstance(node, ast.Call):
        for n, keyword in enumerate(node.keywords):
            if keyword.arg not in UNSEEN:
                yield f"no {keyword.arg}", ast.Call(node.func, node.args, node.keywords[:n] + node.keywords[n + 1 :])
        symmetric = ast.unparse(node.func) in ("min", "max")
        if (
            len(node.args) > 1
            and not symmetric
            and not any(isinstance(arg, ast.Starred | ast.Constant) for arg in node.args[:2])
        ):
            yield "arguments", ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)
        if isinstance(node.func, ast.Attribute) and not node.args and not node.keywords:
            yield "no call", node.func.value
    elif (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and "print" not in ast.unparse(node.value.func)
    ):
        yield "no statement", ast.Pass()
    elif isinstance(node, ast.Continue | ast.Break):
        yield "no jump", ast.Pass()


def _texts(node: ast.BinOp) -> bool:
    return any(isinstance(part, ast.Constant | ast.JoinedStr) and not _number(part) for part in (node.left, node.right))


def _number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def mutants(path: Path) -> Iterator[tuple[str, int, ast.Module]]:
    """Every fault of a file: what tells it from all others, the first line of the statement that it is in, and the
    changed tree. Nothing inside a text, a raise or a keyword of UNSEEN."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    places = []

    def visit(node: ast.AST, scope: str, line: int) -> None:
        if isinstance(node, ast.Raise | ast.JoinedStr) or (
            isinstance(node, ast.Call) and "print" in ast.unparse(node.func)
        ):
            return
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns"):
                continue
            for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(child, ast.AST) and getattr(child, "arg", None) not in UNSEEN:
                    inner = f"{scope}.{child.name}" if isinstance(child, ast.FunctionDef | ast.ClassDef) else scope
                    begin = child.lineno if isinstance(child, ast.stmt) else line
                    places.extend((node, field, place, child, inner, begin, *change) for change in changes(child))
                    visit(child, inner, begin)

    visit(tree, path.relative_to(ROOT).as_posix(), 0)
    seen: dict[str, int] = {}
    for parent, field, place, child, scope, line, what, replacement in places:
        changed, held = ast.fix_missing_locations(ast.copy_location(replacement, child)), getattr(parent, field)
        name = f"{scope}: `{' '.join(ast.unparse(child).split())[:90]}` {what}"
        seen[name] = seen.get(name, 0) + 1
        if place is None:
            setattr(parent, field, changed)
        else:
            held[place] = changed
        yield name + (f" #{seen[name]}" if seen[name] > 1 else ""), line, tree
        if place is None:
            setattr(parent, field, child)
        else:
            held[place] = child


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module from a changed tree; all others come as they are."""

    def __init__(self, path: Path, code):
        self.path, self.code = path, code
        self.name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        self.folders = [str(path.parent)] if path.name == "__init__.py" else None

    def find_spec(self, name, *_):
        if name != self.name:
            return None
        where = {"loader": self, "submodule_search_locations": self.folders}
        return importlib.util.spec_from_file_location(name, self.path, **where)

    def exec_module(self, module) -> None:
        exec(self.code, module.__dict__)


class Recorder:
    """A pytest plugin: which test comes by which line, and how long it takes."""

    def __init__(self, coverage):
        self.coverage, self.seconds = coverage, {}

    def pytest_runtest_logstart(self, nodeid):
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration


def in_child(work: Callable[[], int], seconds: float) -> int:
    """`work`'s value, from a silent forked child; 1 where it takes more than `seconds` of the processor."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 9))
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1), os.dup2(quiet, 2)
            status = int(work())
        finally:
            os._exit(status)
    begin = time.monotonic()
    while time.monotonic() - begin < HANGS:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return int(os.waitstatus_to_exitcode(status) != 0)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 1


def tested(*tests: str, plugins: list | None = None) -> int:
    """pytest's exit code for these tests, up to the first that fails."""
    import pytest

    return pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests], plugins=plugins)


def record(path: Path) -> dict:
    """{"seconds": {test: s}, "lines": {file: {line: [test, ...]}}} of all of TESTS, kept in `path`. They must pass."""

    def work() -> int:
        from coverage import Coverage

        measured = Coverage(data_file=None, source=[str(ROOT)])
        recorder = Recorder(measured)
        measured.start()
        status = tested(*TESTS, plugins=[recorder])
        measured.stop()
        data = measured.get_data()
        lines = {
            Path(name).relative_to(ROOT).as_posix(): data.contexts_by_lineno(name) for name in data.measured_files()
        }
        path.write_text(json.dumps({"seconds": recorder.seconds, "lines": lines}), encoding="utf-8")
        return status

    if not path.exists() and in_child(work, 100 * HANGS):
        path.unlink(missing_ok=True)
        sys.exit(f"the tests do not pass as the code is: python -m pytest {' '.join(TESTS)}")
    return json.loads(path.read_text(encoding="utf-8"))


def near(recorded: dict, path: Path, line: int) -> list[str]:
    """The tests that come by a line, the quickest first; for what is done at import those that use the file."""
    lines = recorded["lines"].get(path.relative_to(ROOT).as_posix(), {})
    tests = {test for test in lines.get(str(line), []) if test}
    if not tests and "" in lines.get(str(line), []):
        tests = {test for some in lines.values() for test in some if test} or set(recorded["seconds"])
    return sorted(tests, key=lambda test: (recorded["seconds"][test], test))


def survives(path: Path, code, tests: list[str], seconds: dict[str, float]) -> bool:
    """Whether the tests pass over the changed module."""

    def work(some: list[str]) -> int:
        sys.meta_path.insert(0, Changed(path, code))
        return tested(*some)

    first = tests[:FIRST] + [test for test in tests[FIRST:] if test.startswith(LOOP)][: FIRST // 2]
    parts = [first, [test for test in tests if test not in first]]
    return not any(in_child(lambda: work(some), 60 + 5 * sum(seconds[test] for test in some)) for some in parts if some)  # noqa: B023


def load() -> None:
    """Import what the tests import and let go of what is ours: a child has to load no more, one part of it changed."""
    for test in TESTS:
        importlib.import_module(test.removesuffix(".py").replace("/", "."))
    for name in list(sys.modules):
        if name.split(".")[0] in ("selfrefine", "tests", "train_it", "train_dpo", "evaluate"):
            del sys.modules[name]


def main() -> None:
    """Try the faults of some files, or of all; a line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help=f"default: {' '.join(FILES + FOLDERS)}")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sample", type=int, help="only so many, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    load()
    files = [ROOT / name for name in args.files or FILES]
    files += [] if args.files else [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
    found = [(path, name) for path in files for name, _, _ in mutants(path)]
    chosen = set(random.Random(args.seed).sample(found, min(args.sample or len(found), len(found))))
    done = {json.loads(line)["mutant"] for line in args.output.open()} if args.output.exists() else set()
    print(f"{len(found)} mutants, {len(chosen)} to try, {len(done)} tried before", flush=True)
    recorded = record(args.output.with_suffix(".lines.json"))
    with args.output.open("a", buffering=1) as file:
        for path in files:
            for name, line, tree in mutants(path):
                if (path, name) in chosen and name not in done:
                    begin, tests = time.monotonic(), near(recorded, path, line)
                    lives = survives(path, compile(tree, path, "exec"), tests, recorded["seconds"])
                    row = {"mutant": name, "line": line, "survives": lives, "tests": len(tests)}
                    row["seconds"] = round(time.monotonic() - begin, 1)
                    print(json.dumps(row, ensure_ascii=False), file=file)
                    if lives:
                        print("survives:", name, flush=True)


if __name__ == "__main__":
    main()
