"""The paper's experiments, one command each: `python -m selfrefine.experiments table1`.

An experiment is a plan of ordinary commands (annotate, train_it, train_dpo, evaluate, judge). --plan prints it, with
what each command needs, what there is, and an estimate of its cost. Without --plan the commands run in order: what is
done is skipped, what was stopped goes on, and what experiments share in one --output runs once. At the end there is a
report in OUTPUT/reports/NAME: report.html to look at, report.md to read, report.json for machines.
"""

import argparse
import shutil
import signal
from pathlib import Path

from selfrefine import command
from selfrefine.errors import UserError
from selfrefine.experiments import recipes, report
from selfrefine.experiments.plans import EXPERIMENTS, commands, plan
from selfrefine.experiments.run import execute, prepare, state
from selfrefine.experiments.sections import tables
from selfrefine.experiments.settings import Settings, own_questions, settings
from selfrefine.experiments.steps import PROGRAMS, Step


def main() -> None:
    """The command."""
    args = vars(_parser().parse_args())  # only what was given: all else is the recipe's, or the experiment's own
    name, plan_only, report_only = (args.pop(flag) for flag in ("name", "plan", "report"))
    args |= {"output": Path("runs/own")} if name == "own" and "output" not in args else {}
    chosen = settings(recipes.read(args.pop("recipe")), **args)
    require_own(name, chosen)
    rows = plan(name, chosen)
    steps = commands(rows)
    if plan_only:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--plan | head` ends in peace
        print(described(name, chosen, steps))
        return
    if not report_only:
        if chosen.data and not chosen.data.is_dir() and any("--data" in step.words for step in steps):
            raise UserError(f"--data {chosen.data}: there is no such folder.")
        if not chosen.recipe["seconds"] and not shutil.which("nvidia-smi"):
            print(
                "warning: no NVIDIA GPU is seen here; the paper's models take months on a CPU, --scale pocket minutes"
            )
        prepare(chosen.recipe["environment"])
        execute(steps)
    content = report.write(name, chosen, rows)
    print(*tables(content), sep="\n\n")


def require_own(name: str, s: Settings) -> None:
    """UserError where `own` lacks something, or its files are given to another experiment."""
    own = name == "own"
    if own != bool(s.train or s.test) or own != bool(s.train and s.test):
        raise UserError(
            "own, and no other experiment, takes --train FILE and --test FILE: JSONL with question, target and, for a "
            "choice, options."
        )
    if own and not (s.student and (s.teacher or s.demonstrations)):
        raise UserError(
            "own needs --student MODEL, and --teacher MODEL (with --server URL where it is served) or --demonstrations "
            "DIR with its answers in own.jsonl."
        )
    if own:
        trained = {(one.question, one.options) for one in own_questions(s.train)}
        if both := sum((one.question, one.options) in trained for one in own_questions(s.test)):
            print(f"warning: {both} questions of {s.test} are in {s.train} too: the test is easier by them")


def _parser() -> command.Parser:
    """The flags; what is not given is not there. The experiments are listed under them."""
    listed = "\n".join(f"  {name:<11} {title}" for name, (title, *_) in EXPERIMENTS.items())
    parser = command.Parser(__doc__)
    parser.argument_default = argparse.SUPPRESS
    parser.prog = "python -m selfrefine.experiments"
    parser.epilog = f"experiments:\n{listed}"
    parser.add_argument("name", metavar="NAME", choices=EXPERIMENTS, help="table1, figure2, ...: listed below")
    parser.add_argument("--plan", action="store_true", default=False, help="print the commands and run nothing")
    parser.add_argument("--report", action="store_true", default=False, help="report on what has run and run nothing")
    how = parser.add_mutually_exclusive_group()
    scale = "the paper's models and tasks on GPUs, or the embedded ones on a CPU"
    how.add_argument("--scale", dest="recipe", choices=("paper", "pocket"), default="paper", help=scale)
    recipe = f"flags of every command, as JSON (see experiments/recipes); by name: {', '.join(recipes.SHIPPED)}"
    how.add_argument("--recipe", metavar="FILE", help=recipe)
    output = "folder of all experiments (default: runs/SCALE; runs/own)"
    parser.add_argument("--output", type=Path, metavar="DIR", help=output)
    parser.add_argument("--student", metavar="MODEL", help="one student instead: llama-2-7b, ..., a Hub id or a folder")
    parser.add_argument("--teacher", metavar="MODEL", help="one teacher instead: llama-2-70b, gpt-3.5, ..., a Hub id")
    parser.add_argument("--tasks", nargs="+", metavar="T", help="these tasks instead of the experiment's own")
    parser.add_argument("--also", nargs="+", metavar="T", help="tasks to evaluate on besides, but not to train on")
    seeds = "each a whole run of the method (default: 0)"
    parser.add_argument("--seeds", nargs="+", type=command.natural, metavar="N", help=seeds)
    parser.add_argument("--limit", type=command.positive, metavar="N", help="N questions of each task and split")
    parser.add_argument("--control", action="store_true", help="add the equal-compute row (pocket has it anyway)")
    command.add_data_flag(parser)
    parser.add_argument("--train", type=Path, metavar="FILE", help="own: the questions to train on, with their answers")
    parser.add_argument("--test", type=Path, metavar="FILE", help="own: the questions to evaluate on")
    given = "answers to training questions that are there already, DIR/TASK.jsonl, in place of asking a teacher"
    parser.add_argument("--demonstrations", type=Path, metavar="DIR", help=given)
    parser.add_argument("--server", metavar="URL", help="teachers answer there (GPT-3.5 at OpenAI's anyway)")
    parser.add_argument("--judge", metavar="NAME", help="of Tables 13 and 14 (default: gpt-4, App. H)")
    parser.add_argument("--judge-server", metavar="URL", help="where the judge answers (default: OpenAI's)")
    return parser


def described(name: str, settings: Settings, steps: list[Step]) -> str:
    """The plan in full: for every command its state, cost, needs, inputs and what it makes."""
    numbers = {step.output: number for number, step in enumerate(steps, start=1)}
    states = {step.output: state(step) for step in steps}
    measured = bool(settings.recipe["seconds"])
    lines = [f"{EXPERIMENTS[name].title}; {settings.recipe['name']} scale, output in {settings.output}", ""]
    for step in steps:
        made = {
            one.output: "there" if states[one.output] == "done" else f"from {numbers[one.output]}"
            for one in step.inputs
        }
        needs = ", ".join(f"{output} ({where})" for output, where in made.items())
        lines += [
            f"{numbers[step.output]:>4}  {states[step.output]}  {_time(step.hours, measured)}  {step.title}",
            f"      needs {'; '.join(filter(None, (step.needs, needs)))}",
            f"      $ {step.line}",
        ]
    titles = ("annotations", "runs of phase 1", "runs of phase 2", "evaluations", "judgements")
    kinds = {title: sum(step.kind == kind for step in steps) for kind, title in zip(PROGRAMS, titles, strict=True)}
    counted = ", ".join(f"{count} {title}" for title, count in kinds.items() if count)
    left = [step.hours for step in steps if states[step.output] != "done"]
    cost, unknown = _time(sum(hours or 0 for hours in left), measured), left.count(None)
    cost += f", and {unknown} of a model whose size is not known" if unknown else ""
    source = "hours of an A100, from assumed lengths and published speeds; of what servers answer, nothing"
    if measured:
        source = "measured once, on two CPU cores"
    done = f"{len(steps) - len(left)} done, {len(left)} to run"
    lines += ["", f"{len(steps)} commands ({counted}), {done}: {cost}", f"Times are estimates: {source}."]
    return "\n".join(lines)


def _time(hours: float | None, measured: bool) -> str:
    if hours is None:
        return "? GPU hours"
    return f"about {hours * 60:.1f} CPU minutes" if measured else f"about {hours:.1f} GPU hours"


if __name__ == "__main__":
    command.run(main)
