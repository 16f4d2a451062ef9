"""Several processes against one: gradients, adapters, answers, and what is left where one of them is lost.

Ranks are forked from a server that has imported all (a second each, not ten), and meet as torchrun's do: by a store
that outlives them. torchrun itself starts those of the tests that say so.
"""

import importlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import TCPStore

from selfrefine import command, ranks
from selfrefine.errors import UserError
from selfrefine.fast.dense import free_memory
from selfrefine.records import write_records
from tests.conftest import ROOT, lines
from tests.test_reference_loop import demonstrations, preferences

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["train_it", "train_dpo", "evaluate", "selfrefine.annotate", "tests.test_ranks"])
COMMON = [
    "--device",
    "cpu",
    "--dtype",
    "float32",
    "--micro-batch-tokens",
    200,
    "--batch-size",
    4,
    "--validate-every",
    3,
]
COMMON += ["--lora-rank", 4, "--lora-alpha", 8, "--keep", "all", "--validation-fraction", 0.2, "--save-every", 4]
GONE = "another process of this run is gone"


class Ranks:
    """`count` processes that are one run of a script; `change`, called in each before it starts, puts faults in."""

    def __init__(self, count: int, script: str, flags: list, folder: Path, change: Callable = int, store=None):
        self.store = store or TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.said = [folder.with_name(f"{folder.name}.said{rank}") for rank in range(count)]
        given = (count, self.store.port, script, list(map(str, flags)), change)
        self.processes = [
            FORKED.Process(target=_rank, args=(rank, *given, said)) for rank, said in enumerate(self.said)
        ]
        for process in self.processes:
            process.start()

    def ended(self, seconds: float = 240) -> list[int]:
        """The exit codes, a signal's negative."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(deadline - time.monotonic())
        late = [process for process in self.processes if process.is_alive()]
        for process in late:
            process.kill()
        assert not late, self.words()
        return [process.exitcode for process in self.processes]

    def words(self) -> str:
        """All that was said, by any rank."""
        return "".join(said.read_text() for said in self.said)


def _rank(rank: int, count: int, port: int, script: str, flags: list[str], change: Callable[[], None], said: Path):
    with open(said, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    ranks.RANK, ranks.COUNT, ranks.LOCAL_RANK, ranks.LOCAL_COUNT = rank, count, rank, count
    torch.set_num_threads(1)
    sys.argv = [script, *flags]
    change()
    command.run(importlib.import_module(script).main, several=True)


def run(count: int, script: str, flags: list, output: Path, change: Callable[[], None] = int) -> str:
    """A run to its end; what it said."""
    started = Ranks(count, script, [*flags, "--output", output], output, change)
    assert started.ended() == [0] * count, started.words()
    return started.words()


def noted(script: str, folder: Path) -> None:
    """A change that keeps what each rank trains with: each step's gradient, and the parameters first and last."""
    module, clip, told = importlib.import_module(script), torch.nn.utils.clip_grad_norm_, {"gradients": []}
    keep = module.save_checkpoint

    def flat(tensors) -> torch.Tensor:
        return torch.cat([tensor.detach().flatten() for tensor in tensors])

    def clipped(parameters, limit: float):
        parameters = list(parameters)
        told.setdefault("start", flat(parameters))
        told["gradients"].append(flat(parameter.grad for parameter in parameters))
        return clip(parameters, limit)

    def kept(output, parameters, *rest) -> None:
        torch.save(told | {"end": flat(parameters.values())}, folder.with_name(f"{folder.name}.rank{ranks.RANK}"))
        keep(output, parameters, *rest)

    torch.nn.utils.clip_grad_norm_, module.save_checkpoint = clipped, kept


def notes(output: Path, count: int) -> list[dict]:
    return [torch.load(output.with_name(f"{output.name}.rank{rank}")) for rank in range(count)]


def dies(module: str, name: str, rank: int, at: int, number: int = signal.SIGKILL) -> None:
    """A change that sends `rank` a signal when it calls a function for the `at`-th time."""
    owner, calls = importlib.import_module(module), iter(range(1, 10**6))
    called = getattr(owner, name)

    def calling(*arguments, **named):
        if rank == ranks.RANK and next(calls) == at:
            os.kill(os.getpid(), number)
        return called(*arguments, **named)

    setattr(owner, name, calling)


def flags_of(phase: int, folder: Path, student: Path) -> tuple[str, list]:
    """A run of three epochs over unequal rows, the last step of each smaller."""
    flags = ["--student", student, *COMMON, "--lora-dropout", 0, "--epochs", 3]
    if phase == 1:
        write_records(folder / "rows.jsonl", demonstrations())
        return "train_it", [*flags, "--demonstrations", folder / "rows.jsonl", "--learning-rate", 2e-2]
    write_records(folder / "pairs.jsonl", preferences())
    return "train_dpo", [*flags, "--preferences", folder / "pairs.jsonl", "--learning-rate", 2e-2, "--warmup-steps", 2]


@pytest.fixture(scope="module", params=[1, 2], ids=["phase 1", "phase 2"])
def one(request, tmp_path_factory, student_folder):
    """A run in one process: (script, flags, output)."""
    folder = tmp_path_factory.mktemp("one")
    script, flags = flags_of(request.param, folder, student_folder)
    run(1, script, flags, folder / "run", partial(noted, script, folder / "run"))
    return script, flags, folder / "run"


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).norm() / expected.norm()).item()


def same_training(one: Path, many: Path, count: int) -> None:
    """Each step's gradient and what is logged of it to 1e-5, the adapters to 1e-3 of their move; ranks to the bit."""
    (alone,), every = notes(one, 1), notes(many, count)
    for other in every[1:]:
        assert torch.equal(other["end"], every[0]["end"])
        assert all(map(torch.equal, other["gradients"], every[0]["gradients"]))
    apart = [relative(*pair) for pair in zip(every[0]["gradients"], alone["gradients"], strict=True)]
    assert max(apart) < 1e-5, apart
    move = alone["end"] - alone["start"]
    assert move.norm() > 1e-3 and (every[0]["end"] - alone["end"]).norm() < 1e-3 * move.norm()
    for row, expected in zip(lines(many, timed=False), lines(one, timed=False), strict=True):
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_train_as_one_process(one, tmp_path, count):
    script, flags, alone = one
    said = run(count, script, flags, tmp_path / "run", partial(noted, script, tmp_path / "run"))
    same_training(alone, tmp_path / "run", count)
    assert said.count("steps done") == 1
    assert not list((tmp_path / "run").rglob("*rank*"))


def leaves_a_row_out(script: str, folder: Path) -> None:
    """In training alone, the reference pass has all."""
    module, metrics, share = importlib.import_module(script), importlib.import_module(script).Metrics, ranks.share

    def starting(*given):
        ranks.share = lambda *rows: share(*rows)[ranks.RANK :]
        return metrics(*given)

    module.Metrics = starting
    noted(script, folder)


def test_a_rank_that_leaves_a_row_out_is_noticed(one, tmp_path):
    script, flags, alone = one
    run(2, script, flags, tmp_path / "run", partial(leaves_a_row_out, script, tmp_path / "run"))
    with pytest.raises(AssertionError):
        same_training(alone, tmp_path / "run", 2)


def as_rank(monkeypatch, rank: int, count: int) -> None:
    monkeypatch.setattr(ranks, "RANK", rank)
    monkeypatch.setattr(ranks, "COUNT", count)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_step_is_dealt_by_tokens_and_whole(monkeypatch, count):
    """Each index once, no rank more than the widest row above its part; neighbours in width stay together."""
    widths, dealt = [50, 400, 120, 30, 90, 210, 75, 300, 60, 180, 45, 33], []
    for rank in range(count):
        as_rank(monkeypatch, rank, count)
        dealt.append(ranks.share(range(12), widths))
    assert sorted(index for part in dealt for index in part) == list(range(12))
    assert all(sum(widths[i] for i in part) < sum(widths) / count + max(widths) for part in dealt)
    order = [widths[i] for part in dealt for i in part]
    assert order == (widths if count == 1 else sorted(order, reverse=True))


def test_prompts_are_dealt_in_blocks(monkeypatch):
    for count, expected in ((1, ["abcdefgh"]), (2, ["abcgh", "def"]), (4, ["abc", "def", "gh", ""])):
        for rank, part in enumerate(expected):
            as_rank(monkeypatch, rank, count)
            assert ranks.mine("abcdefgh", 3) == list(part)


def test_dropout_is_each_ranks_own_and_the_same_every_time(student_folder, tmp_path):
    script, flags = flags_of(1, tmp_path, student_folder)
    for name in ("a", "b"):
        run(2, script, [*flags, "--lora-dropout", 0.5, "--epochs", 1], tmp_path / name)
    assert lines(tmp_path / "a", timed=False) == lines(tmp_path / "b", timed=False)
    adapters = [(tmp_path / name / "last/adapter_model.safetensors").read_bytes() for name in ("a", "b")]
    assert adapters[0] == adapters[1]


def test_each_rank_has_a_seed_of_its_own(monkeypatch):
    draws = []
    for rank in range(4):
        monkeypatch.setattr(ranks, "RANK", rank)
        draws.append(torch.rand(4, generator=torch.Generator().manual_seed(ranks.own_seed(3))))
    assert torch.equal(draws[0], torch.rand(4, generator=torch.Generator().manual_seed(3)))
    assert len({tuple(draw.tolist()) for draw in draws}) == 4


# one run resumed by another count


@pytest.mark.parametrize("at", [pytest.param(4, marks=pytest.mark.long), 9])
def test_a_rank_killed_in_mid_step_ends_the_others_and_any_count_goes_on(one, tmp_path, at):
    """A checkpoint is there after step 4, so the first falls before it. Two ranks go on with the bits of two that were
    never stopped, others within their rounding."""
    script, flags, alone = one
    run(2, script, flags, tmp_path / "straight")
    for count in (2, 1 if at == 4 else 3):
        output = tmp_path / str(count)
        change = partial(dies, "selfrefine.ranks", "sum_gradients", 1, at)
        killed, begin = Ranks(2, script, [*flags, "--output", output], output, change), time.monotonic()
        assert killed.ended() == [1, -signal.SIGKILL], killed.words()
        assert killed.words().count(GONE) == 1 and "Traceback" not in killed.words()
        assert time.monotonic() - begin < 60
        run(count, script, [*flags, "--resume"], output, partial(noted, script, output))
        if count == 2:
            assert lines(output, timed=False) == lines(tmp_path / "straight", timed=False)
            straight = (tmp_path / "straight/last/adapter_model.safetensors").read_bytes()
            assert (output / "last/adapter_model.safetensors").read_bytes() == straight
        else:
            (first,), end = notes(alone, 1), notes(output, count)[0]["end"]
            assert (end - first["end"]).norm() < 1e-3 * (first["end"] - first["start"]).norm()


def test_a_signal_to_any_rank_leaves_a_checkpoint_of_all(student_folder, tmp_path):
    script, flags = flags_of(1, tmp_path, student_folder)
    change = partial(dies, "selfrefine.ranks", "sum_gradients", 1, 2, signal.SIGTERM)
    stopped = Ranks(2, script, [*flags, "--output", tmp_path / "run"], tmp_path / "run", change)
    assert stopped.ended() == [143, 143]
    assert stopped.words().count("--resume goes on from here") == 1
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002"]


# said once


def test_what_the_first_rank_finds_wrong_ends_all_in_one_sentence(student_folder, tmp_path):
    script, flags = flags_of(1, tmp_path, student_folder)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("a file of the user's")
    refused = None
    for _ in range(2):  # by torchrun's restart too, whose store has still what the first start left
        refused = Ranks(
            3, script, [*flags, "--output", tmp_path / "run"], tmp_path / "run", int, refused and refused.store
        )
        assert refused.ended() == [2, 2, 2], refused.words()
        assert refused.words().count("error:") == 1 and "already holds a run" in refused.words()
        assert "Traceback" not in refused.words()


def restarted_here(rank: int) -> None:
    ranks.RESTARTED = rank == ranks.RANK


def test_what_one_machine_starts_again_all_resume(student_folder, tmp_path):
    """Each torchrun counts its own restarts, so that of another machine may have counted none."""
    script, flags = flags_of(1, tmp_path, student_folder)
    flags += ["--output", tmp_path / "run"]
    assert Ranks(2, script, [*flags, "--max-steps", 5], tmp_path / "run").ended() == [0, 0]
    again = Ranks(2, script, [*flags, "--max-steps", 5], tmp_path / "run", partial(restarted_here, 1))
    assert again.ended() == [0, 0], again.words()
    assert "resuming after step 5" in again.words()


def sees_other_rows() -> None:
    from selfrefine.training import setup

    setup.digest = lambda _: f"machine {ranks.RANK}"


def test_machines_with_other_files_are_refused(student_folder, tmp_path):
    script, flags = flags_of(1, tmp_path, student_folder)
    refused = Ranks(2, script, [*flags, "--output", tmp_path / "run"], tmp_path / "run", sees_other_rows)
    assert refused.ended() == [2, 2]
    assert refused.words().count("error:") == 1
    assert "not all machines have the same the rows of --demonstrations" in refused.words()


def test_a_wrong_flag_and_help_are_said_once(student_folder, tmp_path):
    for flag, code in (("--nonsense", 2), ("--help", 0)):
        refused = Ranks(2, "selfrefine.annotate", ["--output", tmp_path / "run", flag], tmp_path / "run")
        assert refused.ended() == [code] * 2
        assert refused.words().count("usage:") == (code == 0) and refused.words().count("(see --help)") == (code == 2)


def test_what_is_no_work_for_several_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(ranks, "COUNT", 2)
    monkeypatch.setattr(ranks, "first_end", lambda code: None)
    with pytest.raises(SystemExit, match="2"):
        command.run(lambda: pytest.fail("it ran"))
    assert "start this without" in capsys.readouterr().err


def test_a_signal_where_nothing_is_to_be_kept_ends_all_and_is_said_once(student_folder, tmp_path):
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    flags = ["--student", student_folder, "--questions", tmp_path / "questions.jsonl", "--max-new-tokens", 8]
    flags += ["--device", "cpu", "--dtype", "float32"]
    change = partial(dies, "evaluate", "prediction", 1, 2, signal.SIGTERM)
    stopped = Ranks(2, "evaluate", [*flags, "--output", tmp_path / "run.json"], tmp_path / "run", change)
    assert stopped.ended() == [143, 143]
    assert stopped.words().count("error:") == 1 and "stopped; what was written is kept" in stopped.words()


@pytest.mark.parametrize(
    ("given", "gpus", "expected"),
    [("auto", 4, "cuda:2"), ("cuda", 4, "cuda:2"), ("cuda:2", 4, "cuda:2"), ("cpu", 4, "cpu"),
     ("cuda:0", 4, "a GPU of its own"), ("auto", 2, "no such GPU")],
)  # fmt: skip
def test_each_rank_has_a_gpu_of_its_own(monkeypatch, given, gpus, expected):
    """The third process of a machine has its third GPU, and torch's calls without a device go there."""
    as_rank(monkeypatch, 6, 8)
    monkeypatch.setattr(ranks, "LOCAL_RANK", 2)
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: taken.append(str(device)))
    args = SimpleNamespace(device=given, dtype="float32")
    if "cuda" in expected or expected == "cpu":
        assert str(command.machine(args)[0]) == expected and taken == [expected] * (expected != "cpu")
    else:
        with pytest.raises(UserError, match=expected):
            command.machine(args)


def test_ranks_share_a_machines_memory(monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 1000)
    assert free_memory(torch.device("cpu")) == 10**6
    monkeypatch.setattr(ranks, "LOCAL_COUNT", 4)
    assert free_memory(torch.device("cpu")) == 250_000


# answers


def sampling(folder: Path, student: Path) -> tuple[str, list]:
    """Phase 2 from demonstrations, one step after its sampling, in windows of 16 answers; greedy."""
    write_records(folder / "rows.jsonl", demonstrations())
    flags = ["--student", student, *COMMON, "--demonstrations", folder / "rows.jsonl", "--temperature", 0]
    return "train_dpo", [*flags, "--max-new-tokens", 12, "--sampling-batch-size", 2, "--max-steps", 1]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def by_key(path: Path) -> list[dict]:
    return sorted(read(path), key=lambda row: row["key"])


def test_ranks_sample_what_one_process_samples_and_any_count_goes_on(student_folder, tmp_path):
    """Killed in sampling, gone on by another count; each question once, in one file."""
    script, flags = sampling(tmp_path, student_folder)
    run(1, script, flags, tmp_path / "one")
    expected = by_key(tmp_path / "one/answers.jsonl")
    assert len(expected) == 28
    for count in (2, 3):
        output = tmp_path / str(count)
        change = partial(dies, "selfrefine.preferences", "decode", 1, 5)
        killed = Ranks(2, script, [*flags, "--output", output], output, change)
        assert killed.ended() == [1, -signal.SIGKILL] and killed.words().count(GONE) == 1
        begun = [read(path) for path in ranks.parts(output / "answers.jsonl")]
        assert len(begun) == 2 and len(begun[1]) == 4 and begun[0]
        run(count, script, [*flags, "--resume"], output)
        assert by_key(output / "answers.jsonl") == expected
        assert not list(output.glob("*rank*"))
        assert (output / "preferences.jsonl").read_bytes() == (tmp_path / "one/preferences.jsonl").read_bytes()


def test_the_reference_killed_goes_on(student_folder, tmp_path):
    """Two ranks go on where they were, three begin the pass again: their micro-batches are others."""
    script, flags = flags_of(2, tmp_path, student_folder)
    run(2, script, flags, tmp_path / "straight")
    straight = lines(tmp_path / "straight", timed=False)
    for count in (2, 3):
        output = tmp_path / str(count)
        change = partial(dies, "selfrefine.fast", "pair_log_probs", 1, 3)
        killed = Ranks(2, script, [*flags, "--output", output], output, change)
        assert killed.ended() == [1, -signal.SIGKILL] and killed.words().count(GONE) == 1
        before = (output / "reference.safetensors").stat().st_mtime_ns
        run(count, script, [*flags, "--resume"], output)
        assert (output / "reference.safetensors").stat().st_mtime_ns > before
        for row, expected in zip(lines(output, timed=False), straight, strict=True):
            assert row == (expected if count == 2 else pytest.approx(expected, rel=1e-4, abs=1e-4))


QUESTIONS = [{"question": f"{n} and {n} and {n + 1}?" + " Yes?" * (n % 5), "target": str(n)} for n in range(9)]


@pytest.mark.parametrize("method", ["generate", "probe"])
def test_ranks_evaluate_as_one_process(student_folder, tmp_path, method):
    """The same predictions in the same order, the same results; stopped and started again by one more, too."""
    rows = [row | ({"options": ["one", "two"], "target": "A"} if method == "probe" else {}) for row in QUESTIONS]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--student", student_folder, "--questions", tmp_path / "questions.jsonl", "--method", method]
    flags += ["--device", "cpu", "--dtype", "float32", "--temperature", 0, "--max-new-tokens", 8, "--batch-size", 2]
    run(1, "evaluate", flags, tmp_path / "one.json")
    killed = Ranks(2, "evaluate", [*flags, "--output", tmp_path / "two.json"], tmp_path / "two",
                   partial(dies, "evaluate", "prediction", 1, 3))  # fmt: skip
    assert killed.ended() == [1, -signal.SIGKILL] and killed.words().count(GONE) == 1
    said = run(3, "evaluate", flags, tmp_path / "two.json")
    assert re.search(r"^\d+ answers are in", said, re.MULTILINE) and said.count("accuracy") == 1
    one, two = ((tmp_path / f"{name}.predictions.jsonl").read_text() for name in ("one", "two"))
    assert one == two and len(one.split("\n")) == 19
    results = [json.loads((tmp_path / f"{name}.json").read_text())["results"] for name in ("one", "two")]
    assert results[0] == results[1]
    assert not list(tmp_path.glob("two.predictions.rank*"))


def test_ranks_annotate_as_one_process(student_folder, tmp_path):
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    flags = ["--questions", tmp_path / "questions.jsonl", "--teacher", student_folder, "--weights", "nf4"]
    flags += ["--device", "cpu", "--dtype", "float32", "--temperature", 0, "--max-new-tokens", 8, "--batch-size", 2]
    run(1, "selfrefine.annotate", flags, tmp_path / "one.jsonl")
    killed = Ranks(2, "selfrefine.annotate", [*flags, "--output", tmp_path / "two.jsonl"], tmp_path / "two",
                   partial(dies, "selfrefine.annotate", "demonstration", 1, 2))  # fmt: skip
    assert killed.ended() == [1, -signal.SIGKILL] and killed.words().count(GONE) == 1
    (tmp_path / "two.rank7.jsonl").write_text('{"task": "half a li')  # of a start with more ranks
    said = run(3, "selfrefine.annotate", flags, tmp_path / "two.jsonl")
    assert said.count("accuracy (%)") == 1
    one, two = (read(tmp_path / f"{name}.jsonl") for name in ("one", "two"))
    assert two == sorted(one, key=lambda row: [row["question"] for row in QUESTIONS].index(row["question"]))
    assert not list(tmp_path.glob("two.rank*"))


# torchrun itself


def torchrun(words: list, environment: dict | None = None) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def children(pid: int) -> list[int]:
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(child) for child, parent in map(str.split, table.strip().split("\n")) if int(parent) == pid]


def wait_for(metrics: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while not (metrics.exists() and metrics.read_text().count("\n") >= count):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)


@pytest.mark.long
def test_torchrun_starts_a_lost_run_again(student_folder, tmp_path):
    """kill -9 of a worker: torchrun's own restart goes on from the checkpoint, with the bits of a run never stopped."""
    script, flags = flags_of(1, tmp_path, student_folder)
    run(2, script, [*flags, "--epochs", 20], tmp_path / "straight")
    words = ["--standalone", "--nproc-per-node", 2, "--max-restarts", 1, "train_it.py", *flags, "--epochs", 20]
    process = torchrun([*words, "--output", tmp_path / "run"])
    wait_for(tmp_path / "run/metrics.jsonl", 12, process)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "resuming after step" in said
    assert lines(tmp_path / "run", timed=False) == lines(tmp_path / "straight", timed=False)


def job(folder: Path, student: Path, nodes: int) -> Path:
    """The README's sbatch script with a tiny student, two processes a node, and what Slurm brings stood in for: srun
    starts one torchrun a node, all on this machine."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH .*?)```", readme, re.DOTALL)
    write_records(folder / "rows.jsonl", demonstrations())
    words = {
        "meta-llama/Llama-2-7b-chat-hf": student,
        "runs/gsm8k.jsonl": folder / "rows.jsonl",
        "runs/it": folder / "it",
    }
    words |= {"--nproc-per-node 8": "--nproc-per-node 2", "29500": TCPStore("127.0.0.1", 0, is_master=True).port}
    words |= {"--resume": " ".join(map(str, ["--resume", *COMMON, "--epochs", 1]))}
    for word, stand_in in words.items():
        assert word in script
        script = script.replace(word, str(stand_in))
    programs = {
        "scontrol": 'echo "127.0.0.1"',
        "srun": f'for node in $(seq {nodes}); do "$@" & started="$started $!"; done\n'
        "for one in $started; do wait $one || exit 1; done",
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    }
    for name, does in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{does}\n")
        (folder / name).chmod(0o755)
    (folder / "job.sh").write_text(script)
    return folder / "job.sh"


@pytest.mark.parametrize("nodes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_the_readmes_job_runs(student_folder, tmp_path, nodes):
    """As it stands there, by one torchrun, or by two that meet on this machine as two nodes do."""
    script = job(tmp_path, student_folder, nodes)
    subprocess.run(["bash", "-n", script], check=True)
    slurm = {"SLURM_NNODES": str(nodes), "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "here"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", script], cwd=ROOT, env=os.environ | slurm | {"PATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("3 steps done") == 1
    assert (tmp_path / "it/adapter_model.safetensors").exists()
    config = json.loads((tmp_path / "it/config.json").read_text())
    assert config["settings"]["batch_size"] == 4
