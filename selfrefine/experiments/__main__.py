"""The paper's experiments, one command each: `python -m selfrefine.experiments table1`.

An experiment is a plan of ordinary commands (annotate, train_it, train_dpo, evaluate, judge). --plan prints it, with
what each command needs, what there is, and an estimate of its cost. Without --plan the commands run in order: what is
done is skipped, what was stopped goes on, and what experiments share in one --output runs once. At the end there is a
report in OUTPUT/reports/NAME: report.html to look at, report.md to read, report.json for machines.
"""

import os
import shutil
import signal

from selfrefine import command, report
from selfrefine.errors import UserError
from selfrefine.experiments import options
from selfrefine.experiments.layout import commands
from selfrefine.experiments.plans import NAMES, plan
from selfrefine.experiments.run import execute, state
from selfrefine.experiments.settings import Settings
from selfrefine.experiments.steps import Step
from selfrefine.pocket.settings import ONE_THREAD

MEASURED = "measured once, on two CPU cores"
ASSUMED = "hours of an A100, from assumed lengths and published speeds; of what servers answer, nothing"


def main() -> None:
    """The command."""
    parser = options.parser("experiments", __doc__)
    parser.add_argument("--plan", action="store_true", help="print the commands and run nothing")
    args = parser.parse_args()
    settings = options.settings(args)
    rows = plan(args.name, settings)
    steps = commands(rows)
    if args.plan:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--plan | head` ends in peace
        print(described(args.name, settings, steps))
        return
    if settings.data and not settings.data.is_dir() and any("--data" in step.words for step in steps):
        raise UserError(f"--data {settings.data}: there is no such folder.")
    if not settings.pocket and not shutil.which("nvidia-smi"):
        print("warning: no NVIDIA GPU is seen here; on a CPU the paper's models take months, --scale pocket minutes")
    if settings.pocket and os.environ.setdefault(ONE_THREAD, "1") == "1":
        print(f"each command runs on one thread ({ONE_THREAD}=1): a model this small gains nothing from a second")
    execute(steps)
    report.write(args.name, settings, rows)


def described(name: str, settings: Settings, steps: list[Step]) -> str:
    """The plan in full: for every command its state, cost, needs, inputs and what it makes."""
    numbers = {step.output: number for number, step in enumerate(steps, start=1)}
    states = [state(step) for step in steps]
    lines = [f"{NAMES[name]}; {'pocket' if settings.pocket else 'paper'} scale, output in {settings.output}", ""]
    for number, (step, now) in enumerate(zip(steps, states, strict=True), start=1):
        inputs = ", ".join(
            f"{needed.output} ({'there' if state(needed) == 'done' else f'from {numbers[needed.output]}'})"
            for needed in step.inputs
        )
        lines += [
            f"{number:>4}  {now}  {_time(step.hours, settings.pocket)}  {step.title}",
            f"      needs {step.needs}" + (f"; {inputs}" if inputs else ""),
            f"      $ {step.line}",
        ]
    left = [step for step, now in zip(steps, states, strict=True) if now != "done"]
    kinds = {"annotate": "annotations", "instruct": "runs of phase 1", "refine": "runs of phase 2"}
    kinds |= {"evaluate": "evaluations", "judge": "judgements"}
    counted = ", ".join(
        f"{sum(step.kind == kind for step in steps)} {title}"
        for kind, title in kinds.items()
        if any(step.kind == kind for step in steps)
    )
    unknown = sum(step.hours is None for step in left)
    return "\n".join(
        [
            *lines,
            "",
            f"{len(steps)} commands ({counted}), {states.count('done')} done, {len(left)} to run: "
            f"{_time(sum(step.hours or 0 for step in left), settings.pocket)}"
            + (f", and {unknown} of a model whose size is not known" if unknown else ""),
            f"Times are estimates: {MEASURED if settings.pocket else ASSUMED}.",
        ]
    )


def _time(hours: float | None, pocket: bool) -> str:
    if hours is None:
        return "? GPU hours"
    return f"about {hours * 60:.1f} CPU minutes" if pocket else f"about {hours:.1f} GPU hours"


if __name__ == "__main__":
    command.run(main)
