"""How a command speaks: defaults in --help, and errors in one sentence."""

import os
import re
import subprocess
import sys

import pytest
import torch
from tqdm import tqdm

import train_dpo
import train_it
from selfrefine import command
from selfrefine.errors import UserError
from selfrefine.fast.dense import free_memory
from tests.conftest import ROOT


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
    ],
)
def test_running_out_of_memory_is_one_sentence(error, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stopped:
        command.run(main)
    assert stopped.value.code == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "--micro-batch-tokens" in told


def test_an_error_stands_on_a_line_of_its_own(capsys):
    """Not behind the progress bar of what it ended."""

    def main():
        bar = tqdm(total=9, desc="loading", file=sys.stderr)
        bar.update(3)
        raise UserError(f"half a file {bar.n}")

    with pytest.raises(SystemExit):
        command.run(main)
    told = re.split(r"[\r\n]", capsys.readouterr().err)
    assert "error: half a file 3" in told


def test_other_errors_of_torch_are_not_hidden():
    def main():
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        command.run(main)


def test_help_shows_a_default_of_zero_and_none_where_there_is_none():
    parser = command.Parser("")
    parser.add_argument("--zero", type=float, default=0.0, help="a number")
    parser.add_argument("--switch", action="store_true", help="a switch")
    parser.add_argument("--unset", help="a text")
    told = parser.format_help()
    assert "a number (default: 0.0)" in told
    assert told.count("(default") == 1


COMMANDS = [
    *[
        ("-m", f"selfrefine.{name}")
        for name in ("quickstart", "annotate", "judge", "report", "benchmark", "merge", "ask")
    ],
    ("-m", "selfrefine.experiments"),
    *[("train_it.py",), ("train_dpo.py",), ("evaluate.py",)],
]


@pytest.mark.parametrize("started", COMMANDS, ids=" ".join)
def test_on_windows_every_command_says_where_it_runs(started, tmp_path):
    """What Windows lacks is taken away: the module fcntl."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['fcntl'] = None\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, *started, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "Linux, on macOS, and on Windows inside WSL" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_free_memory_where_the_system_does_not_say(monkeypatch):
    """macOS has no SC_AVPHYS_PAGES: then half of all memory counts as free."""
    known = os.sysconf

    def sysconf(name):
        if name == "SC_AVPHYS_PAGES":
            raise ValueError("unrecognized configuration name")
        return known(name)

    monkeypatch.setattr(os, "sysconf", sysconf)
    everything = known("SC_PHYS_PAGES") * known("SC_PAGE_SIZE")
    assert free_memory(torch.device("cpu")) == pytest.approx(everything / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("script", "flag", "said"),
    [
        (train_it, "--batch-size BATCH_SIZE", "Alpaca's"),
        (train_dpo, "--batch-size BATCH_SIZE", "§3.2.1"),
        (train_dpo, "--schedule", "Rafailov"),
        (train_dpo, "--top-p P", "generation_config.json"),
    ],
)
def test_help_says_whose_default_it_is(script, flag, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [script.__name__, "--help"])
    with pytest.raises(SystemExit):
        script.main()
    told = capsys.readouterr().out.partition("options:")[2]
    assert said in told.partition(flag)[2].partition("\n  --")[0]
