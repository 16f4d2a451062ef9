"""Killed for real, on a full disk, preempted: separate processes, real signals, a real file-size limit."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, phase_1, phase_2
from tests.test_training import lines, same_run

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(script: str, flags: list[str], **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, ROOT / script, *flags],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def finished(script: str, flags: list[str], **options) -> tuple[int, str]:
    process = start(script, flags, **options)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def flags_of(phase: int, student_folder, demonstrations, instructed, output: Path) -> tuple[str, list[str]]:
    if phase == 1:
        flags = [*phase_1(student_folder, demonstrations, output), "--validation-fraction", "0.2", "--epochs", "12"]
        return "train_it.py", [*flags, "--save-every", "3"]
    sampling = ["--demonstrations", str(demonstrations), "--max-new-tokens", "24", "--temperature", "1"]
    flags = [*phase_2(student_folder, instructed, output), *sampling, "--epochs", "12"]
    return "train_dpo.py", [*flags, "--save-every", "3"]


def kill_until_done(script: str, flags: list[str], moments: random.Random, kills: int) -> int:
    """Start, SIGKILL after a random time, resume, and so on, then let it end; how many starts were killed."""
    killed = 0
    while killed < kills:
        process = start(script, [*flags, "--resume"])
        try:
            process.communicate(timeout=moments.uniform(3, 9))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
        else:
            assert process.returncode == 0
            break
    code, said = finished(script, [*flags, "--resume"])
    assert code == 0, said
    return killed


@pytest.mark.long
@pytest.mark.parametrize(("phase", "kills"), [(1, 25), (2, 25), (2, 100)])
def test_killed_at_random_moments(student_folder, demonstrations, instructed, tmp_path, phase, kills):
    """kill -9 at random moments, in as many runs as it takes: each ends with a straight run's adapter and metrics."""
    moments = random.Random(phase)
    straight = flags_of(phase, student_folder, demonstrations, instructed, tmp_path / "straight")
    code, said = finished(*straight)
    assert code == 0, said
    killed = run = 0
    while killed < kills:
        output = tmp_path / f"killed-{run}"
        script, flags = flags_of(phase, student_folder, demonstrations, instructed, output)
        killed += kill_until_done(script, flags, moments, kills - killed)
        same_run(tmp_path / "straight", output)
        run += 1


def test_killed_while_sampling(student_folder, demonstrations, instructed, tmp_path):
    """In bfloat16, whose bits depend on the rows of a batch, in windows of 16 answers: kill -9 after some, then
    --resume: the answers, in whatever order, are a straight run's, and none is there twice."""
    answers = []
    for name, kill in (("straight", False), ("killed", True)):
        output = tmp_path / name
        script, flags = flags_of(2, student_folder, demonstrations, instructed, output)
        flags += ["--dtype", "bfloat16", "--sampling-batch-size", "2", "--max-steps", "1", "--resume"]
        if kill:
            process = start(script, flags)
            deadline = time.monotonic() + 120
            while not (output / "answers.jsonl").exists() or (output / "answers.jsonl").read_text().count("\n") < 20:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.002)
            process.kill()
            process.communicate()
            before = (output / "answers.jsonl").read_text().count("\n")
        assert finished(script, flags)[0] == 0
        answers.append(sorted((output / "answers.jsonl").read_text().split("\n")))
    assert before < len(answers[0]) - 1
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_preempted_with_a_checkpoint(student_folder, demonstrations, instructed, tmp_path, number, code):
    """The step ends, the state is saved, the code is the signal's own; resumed, the run is a straight one's."""
    script, flags = flags_of(1, student_folder, demonstrations, instructed, tmp_path / "run")
    process = start(script, [*flags, "--save-every", "1000"])
    metrics = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code and "--resume" in said and "Traceback" not in said
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 1
    assert finished(script, [*flags, "--resume"])[0] == 0
    _, flags = flags_of(1, student_folder, demonstrations, instructed, tmp_path / "straight")
    assert finished(script, flags)[0] == 0
    same_run(tmp_path / "straight", tmp_path / "run")


def test_a_full_disk_is_one_sentence_and_costs_nothing(student_folder, demonstrations, instructed, tmp_path):
    """A real limit on file size, under a checkpoint's and over a metrics line's: code 1, no half file, resumable."""
    script, flags = flags_of(1, student_folder, demonstrations, instructed, tmp_path / "run")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    code, said = finished(script, flags, preexec_fn=limit)
    last = said.strip().split("\n")[-1]
    assert code == 1 and "File too large" in last and "nothing written before is lost" in last, said
    assert "Traceback" not in said
    assert not list((tmp_path / "run/checkpoints").glob("step-*"))
    assert len(lines(tmp_path / "run")) > 0
    assert finished(script, [*flags, "--resume"])[0] == 0
    _, flags = flags_of(1, student_folder, demonstrations, instructed, tmp_path / "straight")
    assert finished(script, flags)[0] == 0
    same_run(tmp_path / "straight", tmp_path / "run")
