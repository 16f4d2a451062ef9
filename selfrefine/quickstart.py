"""The whole method on the embedded default, on a CPU: `python -m selfrefine.quickstart --output DIR`.

It runs the commands that a user would type (annotate, train_it, train_dpo, evaluate), prints each before it
starts, and ends with the paper's Table 1 for the pocket tasks. A second start with the same --output skips
what is complete and resumes what was interrupted.
"""

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from selfrefine import command
from selfrefine.errors import RunError, UserError
from selfrefine.files import read_lines
from selfrefine.pocket import table
from selfrefine.pocket.settings import ANSWER, DEMONSTRATIONS, ONE_THREAD, PHASE_1, PHASE_2, STUDENT, TEST_QUESTIONS
from selfrefine.pocket.table import OTHER, TRAINED_ON

ROOT = Path(__file__).resolve().parents[1]
# A trained token goes forward and backward (about twice a forward) through the model; a sampled or scored one
# forward only, so it counts as a third.
FORWARD_ONLY = 1 / 3


def parse_args() -> argparse.Namespace:
    parser = command.Parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the runs and the table")
    parser.add_argument(
        "--seeds",
        type=command.natural,
        nargs="+",
        default=[0],
        metavar="N",
        help="each a whole run of the method",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="adds DIR/multiarith (train.jsonl, test.jsonl) as a column"
    )
    parser.add_argument(
        "--cross", action="store_true", help=f"adds Table 1's rows trained on {OTHER} and cross self-refine"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    for split in ("test", "train") if args.data else ():
        if not (args.data / "multiarith" / f"{split}.jsonl").is_file():
            raise UserError(f"--data {args.data} has no multiarith/{split}.jsonl: name a folder that has it.")
    seeds, start = list(dict.fromkeys(args.seeds)), time.monotonic()
    folders = [args.output / f"seed-{seed}" for seed in seeds]
    for seed, folder in zip(seeds, folders, strict=True):
        run_seed(seed, folder, args.data, args.cross)
    evaluated = [evaluations(folder, args.data) for folder in folders]
    labels = table.present(evaluated)
    accuracies = table.summarise(
        [{label: table.read_accuracies(folder, label) for label in labels} for folder in evaluated]
    )
    chains = table.summarise([{label: table.read_chains(folder, label) for label in labels} for folder in evaluated])
    text = report(accuracies, chains, seeds, control(folders[0]), table.examples(evaluated[0], labels))
    content = {"seeds": seeds, "rows": accuracies, "chain_of_thought": chains}
    (args.output / "table.md").write_text(text, encoding="utf-8")
    (args.output / "table.json").write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    print(f"\n{text}\n{args.output}/table.md and table.json written; {time.monotonic() - start:.0f} seconds")


def run_seed(seed: int, folder: Path, data: Path | None, cross: bool) -> None:
    """Every stage of one seed: the baseline, both phases, the control, and the evaluation of each adapter."""
    evaluations(folder, data).mkdir(parents=True, exist_ok=True)
    evaluate(seed, folder, "baseline", ["standard", "cot"], data)
    for task in (TRAINED_ON, OTHER) if cross else (TRAINED_ON,):
        annotate(seed, folder, task)
        instruct(seed, folder, f"{task}-it", task, PHASE_1["--epochs"])
        evaluate(seed, folder, f"{task}-it", ["cot"], data)
        refine(seed, folder, f"{task}-sr", f"{task}-it", task)
        evaluate(seed, folder, f"{task}-sr", ["cot"], data)
    instruct(seed, folder, f"{TRAINED_ON}-control", TRAINED_ON, control(folder)["epochs"])
    evaluate(seed, folder, f"{TRAINED_ON}-control", ["cot"], data)
    for task, other in ((TRAINED_ON, OTHER), (OTHER, TRAINED_ON)) if cross else ():
        refine(seed, folder, f"{task}-cross", f"{task}-it", other)
        evaluate(seed, folder, f"{task}-cross", ["cot"], data)


def annotate(seed: int, folder: Path, task: str) -> None:
    """The scripted teacher's demonstrations of a task."""
    output = folder / f"{task}-demonstrations.jsonl"
    flags = {
        "--task": task,
        "--split": "train",
        "--teacher": "pocket",
        "--seed": seed,
        "--limit": DEMONSTRATIONS,
    }
    stage(f"demonstrations of {task}", ["-m", "selfrefine.annotate"], flags | {"--output": output}, output)


def instruct(seed: int, folder: Path, name: str, task: str, epochs: int) -> None:
    """Phase 1 on a task's demonstrations, into folder/name."""
    flags = STUDENT | {"--demonstrations": folder / f"{task}-demonstrations.jsonl", "--output": folder / name}
    flags |= PHASE_1 | {"--epochs": epochs, "--seed": seed}
    stage(f"phase 1, {name}", [script("train_it.py"), "--resume"], flags, folder / name)


def refine(seed: int, folder: Path, name: str, instructed: str, task: str) -> None:
    """Phase 2 on a task's demonstrations from the instructed student's adapter, into folder/name."""
    flags = STUDENT | {
        "--adapter": folder / instructed,
        "--demonstrations": folder / f"{task}-demonstrations.jsonl",
    }
    flags |= {"--output": folder / name} | PHASE_2 | ANSWER | {"--seed": seed}
    stage(f"phase 2, {name}", [script("train_dpo.py"), "--resume"], flags, folder / name)


def evaluate(seed: int, folder: Path, name: str, prompts: list[str], data: Path | None) -> None:
    """The tests of all tasks, by the adapter folder/name or by the bare student for "baseline"."""
    flags = STUDENT | ({} if name == "baseline" else {"--adapter": folder / name})
    flags |= {"--tasks": [*table.TASKS, *(["multiarith"] if data else [])], "--prompts": prompts}
    flags |= {"--limit": TEST_QUESTIONS, "--seeds": seed} | ANSWER | ({"--data": data} if data else {})
    output = evaluations(folder, data) / f"{name}.json"
    stage(f"evaluation, {name}", [script("evaluate.py")], flags | {"--output": output}, output)


def evaluations(folder: Path, data: Path | None) -> Path:
    """Where a seed's evaluations lie: those with MultiArith apart, as evaluate.py continues only its own."""
    return folder / ("evaluation-multiarith" if data else "evaluation")


def script(name: str) -> str:
    """A script of the repository's root, as one would type it from here."""
    return os.path.relpath(ROOT / name)


def stage(title: str, program: list[str], flags: dict, result: Path) -> None:
    """Runs one command, printed first; skipped where it has completed before. RunError where it fails."""
    words = [sys.executable, *program]
    for flag, value in flags.items():
        words += [flag, *map(str, value if isinstance(value, list) else [value])]
    line = f"{ONE_THREAD}=1 {shlex.join(words)}"
    done = result.with_name(f"{result.name}.done")  # holds the command that made the result
    if result.exists() and done.exists() and done.read_text(encoding="utf-8") == line:
        print(f"\n== {title}: complete, skipped", flush=True)
        return
    print(f"\n== {title}\n$ {line}", flush=True)
    if code := subprocess.run(words, env=os.environ | {ONE_THREAD: "1"}).returncode:
        raise RunError(
            f"{title} ended with exit code {code}; start again to go on from here, what is complete is kept."
        )
    done.write_text(line, encoding="utf-8")


def control(folder: Path) -> dict[str, int]:
    """As much more of phase 1 as self-refine cost, in tokens through the model, in whole epochs."""
    phase_1, phase_2 = (
        trained_tokens(folder / f"{TRAINED_ON}-it"),
        trained_tokens(folder / f"{TRAINED_ON}-sr"),
    )
    # every pair went forward twice more: when it was sampled, and when the reference scored it
    pairs = sum(1 for _ in read_lines(folder / f"{TRAINED_ON}-sr" / "preferences.jsonl"))
    forward = 2 * pairs * phase_2 / (PHASE_2["--max-steps"] * PHASE_2["--batch-size"])
    more = PHASE_1["--epochs"] * (phase_2 + FORWARD_ONLY * forward) / phase_1
    epochs = PHASE_1["--epochs"] + math.ceil(more)
    return {"epochs": epochs, "phase_1": phase_1, "phase_2": phase_2, "forward_only": round(forward)}


def trained_tokens(run: Path) -> int:
    """Tokens of all optimizer steps of a run, from its metrics."""
    return sum(row.get("tokens", 0) for _, row in read_lines(run / "metrics.jsonl"))


def report(accuracies: table.Table, chains: table.Table, seeds: list[int], spent: dict, answers: dict) -> str:
    """table.md: accuracies, shares of chains of thought, the control's bookkeeping, example answers."""
    listed = ", ".join(map(str, seeds))
    runs = f"seed {listed}" if len(seeds) == 1 else f"mean ± standard deviation over seeds {listed}"
    parts = [
        f"Accuracy in percent, {runs}. {table.BASELINE} is asked at x, every other row at x̂; trained on "
        f"{TRAINED_ON} where not said otherwise.",
        table.grid(accuracies, "accuracy"),
        "Share of the answers with a chain of thought (with an equation), in percent.",
        table.grid(chains, "chain of thought"),
        f"Equal compute (seed {seeds[0]}): phase 1 trained on {spent['phase_1']} tokens, phase 2 on "
        f"{spent['phase_2']}, and sent {spent['forward_only']} forward only (sampling, reference), which count "
        f"a third: the control has {spent['epochs']} epochs of phase 1 in place of {PHASE_1['--epochs']}.",
        f"Answers of seed {seeds[0]} to the first test question of each pocket task:",
    ]
    for title, texts in answers.items():
        parts.append(
            f"{title}\n\n" + "\n".join(f"- {label}: {' '.join(text.split())}" for label, text in texts.items())
        )
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    command.run(main)
