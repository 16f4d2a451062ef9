"""Running a plan: what is done is skipped, what was stopped goes on, and a failure is named."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from selfrefine.errors import RunError, UserError
from selfrefine.experiments.settings import OPENAI
from selfrefine.experiments.steps import Step
from selfrefine.files import write_json

STOPPED = (130, 143)  # exit codes of a command that was told to stop and kept what it had


def marker(step: Step) -> Path:
    """The file that says that a step has ended well, and of which recipe its output is."""
    return step.output.with_name(step.output.name + ".done")


def state(step: Step) -> str:
    """ "done", "begun" or "to do". Done by the recipe: a changed flag, here or in a step before, makes it to do."""
    try:
        recipe = json.loads(marker(step).read_text(encoding="utf-8"))["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        recipe = None
    if recipe == step.recipe and step.output.exists():
        return "done"
    return "begun" if step.output.exists() else "to do"


def execute(steps: list[Step], call: Callable[[Step], int] | None = None) -> None:
    """Run what is not done, in order. `call` runs one command and returns its exit code.

    Raises RunError that names the command that failed. Where a command was stopped by a signal, so is this one, with
    the same exit code: what it had is kept, and the next start goes on from there.
    """
    if call is None:
        with runner() as call:
            execute(steps, call)
        return
    todo = [step for step in steps if state(step) != "done"]
    require_key(todo)
    print(f"{len(steps)} commands, {len(steps) - len(todo)} done before, {len(todo)} to run", flush=True)
    for step in todo:
        number = steps.index(step) + 1
        print(f"\n[{number}/{len(steps)}] {step.title}\n$ {step.line}", flush=True)
        with alone(step):
            begin, code = time.monotonic(), None if state(step) == "done" else call(step)
            if code == 0:  # None where another start has done it meanwhile
                done = {"recipe": step.recipe, "command": step.line, "seconds": round(time.monotonic() - begin, 1)}
                write_json(marker(step), done)
        if code in STOPPED:
            print(f"stopped in command {number} of {len(steps)}; started again, this goes on from there", flush=True)
            sys.exit(code)
        if code:
            raise RunError(
                f"command {number} of {len(steps)} ({step.title}) ended with exit code {code}, its message is above. "
                f"What is complete is kept: mend it and start again. The command alone: {step.line}"
            )


def prepare(environment: dict[str, str]) -> None:
    """Set a recipe's environment for the commands, where it is not set otherwise."""
    for name, value in environment.items():
        if os.environ.setdefault(name, value) == value:
            print(f"each command runs with {name}={value}")


@contextmanager
def alone(step: Step) -> Iterator[None]:
    """Wait until no other process makes this step's output, and keep others from it.

    The command inherits the lock: one that a killed start left running is waited for, not run into.
    """
    try:
        step.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {step.output.parent} cannot be made ({error.strerror}): choose another.") from None
    path = step.output.with_name(step.output.name + ".running")
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("another start has this command running: waiting for it to end", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        os.set_inheritable(file.fileno(), True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def require_key(steps: list[Step]) -> None:
    """UserError before hours of work where the key for OpenAI's server will be missing."""
    asking = [step for step in steps if OPENAI in step.words]
    if asking and not os.environ.get("OPENAI_API_KEY"):
        raise UserError(
            f"{len(asking)} of the commands ask {OPENAI} (the first: {asking[0].title}): set OPENAI_API_KEY, or name "
            "another server with --server (teacher) or --judge-server (judge)."
        )


@contextmanager
def runner() -> Iterator[Callable[[Step], int]]:
    """Gives what runs one command at a time and returns its exit code, as a shell has it.

    A signal that tells this process to stop is passed on, and the command ends in its own time, with a checkpoint where
    it makes them; a second one stops it at once. Between commands a signal ends this process.
    """
    child, starting, told = None, False, 0

    def tell(number: int, _frame) -> None:
        nonlocal told
        told = 130 if number == signal.SIGINT else 143  # SIGHUP's too: a terminal that was closed
        if child:
            child.terminate()
        elif not starting:
            sys.exit(told)

    def call(step: Step) -> int:
        nonlocal child, starting
        starting = True
        # a session of its own: Ctrl-C in a terminal would reach it twice otherwise; the lock of `alone` goes along
        child = subprocess.Popen([sys.executable, *step.words_now], start_new_session=True, close_fds=False)
        starting = False
        if told:  # it came meanwhile
            child.terminate()
        code = child.wait()
        child = None
        return told if code and told else code if code >= 0 else 128 - code

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield call
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
