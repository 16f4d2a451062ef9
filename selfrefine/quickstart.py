"""The whole method on the embedded default, on a CPU: `python -m selfrefine.quickstart --output DIR`.

It runs the commands that a user would type (annotate, train_it, train_dpo, evaluate), prints each before it starts, and
ends with the paper's Table 1 for the pocket tasks. A second start with the same --output skips what is complete and
resumes what was interrupted. It is the plan `quickstart` of `selfrefine.experiments`, whose report it writes too.
"""

import argparse
import time
from pathlib import Path

from selfrefine import command
from selfrefine.errors import UserError
from selfrefine.experiments import recipes, report, results, sections
from selfrefine.experiments.plans import Cell, commands, plan
from selfrefine.experiments.run import execute, prepare
from selfrefine.experiments.settings import settings
from selfrefine.files import write_json, write_whole
from selfrefine.pocket.judge import has_chain
from selfrefine.scores import cell as shown
from selfrefine.scores import over_seeds, percent
from selfrefine.tasks.pocket import TASKS


def main() -> None:
    """The command."""
    args, start = _parse(), time.monotonic()
    for split in ("test", "train") if args.data else ():
        if not (args.data / "multiarith" / f"{split}.jsonl").is_file():
            raise UserError(f"--data {args.data} has no multiarith/{split}.jsonl: name a folder that has it.")
    tasks = (*TASKS, *(["multiarith"] if args.data else []))
    chosen = settings(recipes.read("pocket"), output=args.output, seeds=args.seeds, data=args.data, tasks=tasks)
    rows = plan("quickstart", chosen)
    prepare(chosen.recipe["environment"])
    execute(commands(rows))
    content = report.write("quickstart", chosen, rows)
    chains = {row.method: {task: chain_share(cell) for task, cell in row.cells.items()} for row in rows}
    text = tables(content, chains)
    write_whole(args.output / "table.md", text.encode())
    cells = {row["method"]: row["cells"] for row in content["rows"]}
    accuracies = {name: {task: mean_and_std(cell["ours"]) for task, cell in of.items()} for name, of in cells.items()}
    write_json(args.output / "table.json", {"seeds": chosen.seeds, "rows": accuracies, "chain_of_thought": chains})
    print(f"\n{text}\n{args.output}/table.md and table.json written; {time.monotonic() - start:.0f} seconds")


def mean_and_std(number: dict) -> dict[str, float | None]:
    """What table.json says of a number."""
    return {name: number[name] for name in ("mean", "std")}


def chain_share(cell: Cell) -> dict[str, float | None]:
    """Percent of a cell's answers with a chain of thought: mean and deviation over seeds."""
    answers = [results.answers(step, cell.task, cell.prompt) for step in cell.steps]
    return mean_and_std(over_seeds([percent(has_chain(answer["text"]) for answer in run) for run in answers]))


def tables(content: dict, chains: dict[str, dict[str, dict]]) -> str:
    """table.md: accuracies, shares of chains of thought, and every row's answer to the first question of each task."""
    (table,) = sections.tables(content)
    shares = [[method, *(shown(**share) for share in of.values())] for method, of in chains.items()]
    parts = [f"{sections.introduction(content)} Baseline is asked at x, every other row at x̂.", str(table)]
    parts += ["Share of the answers with a chain of thought (with an equation), in percent."]
    parts += [str(table._replace(lines=shares))]
    parts += [f"Answers of seed {content['settings']['seeds'][0]} to the first test question of each task:"]
    for question in (asked[0] for asked in content["questions"].values()):
        answers = (f"- {row}: {' '.join(answer['text'].split())}" for row, answer in question["answers"].items())
        parts += [f"{question['question']} (target {question['target']})", "\n".join(answers)]
    return "\n\n".join(parts) + "\n"


def _parse() -> argparse.Namespace:
    parser = command.Parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the runs and the tables")
    seeds = "each a whole run of the method"
    parser.add_argument("--seeds", type=command.natural, nargs="+", default=[0], metavar="N", help=seeds)
    data = "adds DIR/multiarith (train.jsonl, test.jsonl) as a column"
    parser.add_argument("--data", type=Path, metavar="DIR", help=data)
    return parser.parse_args()


if __name__ == "__main__":
    command.run(main)
