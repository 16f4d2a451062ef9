"""The flags that say which experiment and with what: shared by running it and by reporting on it."""

import argparse
from pathlib import Path

from selfrefine import command
from selfrefine.errors import UserError
from selfrefine.experiments.plans import NAMES
from selfrefine.experiments.settings import POCKET_TASKS, UNTRAINED, Settings
from selfrefine.paper import TITLES


def parser(program: str, description: str) -> command.Parser:
    """The parser; the experiments are listed under it."""
    listed = "\n".join(f"  {name:<11} {title}" for name, title in NAMES.items())
    made = command.Parser(description)
    made.prog = f"python -m selfrefine.{program}"
    made.epilog = f"experiments:\n{listed}"
    made.add_argument("name", metavar="NAME", choices=NAMES, help="table1, figure2, ...: listed below")
    made.add_argument(
        "--scale",
        choices=("paper", "pocket"),
        default="paper",
        help="the paper's models and tasks on GPUs, or the embedded ones on a CPU",
    )
    made.add_argument("--output", type=Path, metavar="DIR", help="folder of all experiments (default: runs/SCALE)")
    made.add_argument("--student", metavar="MODEL", help="one student instead: llama-2-7b, ..., a Hub id or a folder")
    made.add_argument("--teacher", metavar="MODEL", help="one teacher instead: llama-2-70b, gpt-3.5, ..., a Hub id")
    made.add_argument("--tasks", nargs="+", metavar="T", help="these tasks instead of the experiment's own")
    made.add_argument(
        "--seeds", nargs="+", type=command.natural, default=[0], metavar="N", help="each a whole run of the method"
    )
    made.add_argument("--limit", type=command.positive, metavar="N", help="N questions of each task and split")
    made.add_argument("--control", action="store_true", help="add the equal-compute row (pocket has it anyway)")
    command.add_data_flag(made)
    made.add_argument("--server", metavar="URL", help="teachers answer there (GPT-3.5 at OpenAI's anyway)")
    made.add_argument("--judge", default="gpt-4", metavar="NAME", help="of Tables 13 and 14, App. H")
    made.add_argument("--judge-server", metavar="URL", help="(default: OpenAI's; at pocket scale a scripted judge)")
    return made


def settings(args: argparse.Namespace) -> Settings:
    """The flags as settings; UserError for a task that is not one."""
    known = (*TITLES, *POCKET_TASKS)
    for task in args.tasks or ():
        if task not in known:
            raise UserError(f'--tasks: there is no task "{task}": the tasks are {", ".join(known)}.')
    if args.tasks and set(args.tasks) <= set(UNTRAINED):
        raise UserError(f"--tasks {' '.join(args.tasks)}: that is a test only, add a task to train on.")
    return Settings(
        output=args.output or Path("runs") / args.scale,
        pocket=args.scale == "pocket",
        student=args.student,
        teacher=args.teacher,
        chosen_tasks=tuple(dict.fromkeys(args.tasks or ())),
        seeds=tuple(dict.fromkeys(args.seeds)),
        limit=args.limit,
        data=args.data,
        server=args.server,
        judge=args.judge,
        judge_server=args.judge_server,
        control=args.control,
    )
