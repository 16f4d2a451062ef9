"""Every default that the paper gives, in one place: the flags as they come, and the plan that a bare command prints."""

import re
import sys

import pytest

import train_dpo
import train_it
from selfrefine import annotate, flags, judge
from selfrefine.tasks import splits
from tests.conftest import write_student


@pytest.fixture
def parsed(monkeypatch):
    """The flags of a command that is given no more than it must have."""

    def parse(parser, *given):
        monkeypatch.setattr(sys, "argv", ["command", *given])
        return vars(parser())

    return parse


def holds(given: dict, **expected) -> None:
    assert {name: given[name] for name in expected} == expected


# what both phases share: QLoRA's adapters, the trainer's clipping, Alpaca's and DPO's batch
SHARED = {"batch_size": 128, "lora_rank": 64, "lora_alpha": 16, "max_grad_norm": 1.0, "keep": "correct", "seed": 0}
SHARED |= {"fraction": None, "chat_template": "auto", "gradient_checkpointing": False, "resume": False}


def test_phase_1(parsed):
    given = parsed(lambda: flags.phase_1(""), "--student", "s", "--demonstrations", "d", "--output", "o")
    paper = {"epochs": 4, "learning_rate": 2e-5, "weight_decay": 1e-4, "warmup_ratio": 0.03}  # §3.2.1
    holds(given, **paper, **SHARED, lora_dropout=0.1, validation_fraction=0.0, max_steps=None)


def test_phase_2(parsed):
    given = parsed(
        lambda: flags.phase_2(""), "--student", "s", "--adapter", "a", "--demonstrations", "d", "--output", "o"
    )
    paper = {"beta": 0.1, "learning_rate": 1e-6, "warmup_steps": 100}  # §3.2.1
    ours = {"lora_dropout": 0.0, "validation_fraction": 0.1, "preferred": "cot", "matching": "final"}
    holds(given, **paper, **ours, **SHARED, temperature=0.1, max_new_tokens=512, epochs=None)  # C.2: 0.1


def test_evaluation(parsed):
    given = parsed(lambda: flags.evaluation(""), "--student", "s", "--tasks", "gsm8k")
    holds(given, temperature=0.1, prompts=["standard", "cot"], method="generate", seeds=[0], max_new_tokens=512)  # C.2
    assert given["limit"] is given["adapter"] is None


@pytest.mark.parametrize(
    ("teacher", "temperature"),
    [("gpt-3.5-turbo", 0.7), ("meta-llama/Llama-2-70b-chat-hf", 0.1), ("mistralai/Mixtral-8x7B-Instruct-v0.1", 0.1)],
)
def test_annotation(parsed, teacher, temperature):
    given = parsed(annotate._parse, "--task", "gsm8k", "--teacher", teacher, "--output", "o.jsonl")
    holds(given, temperature=temperature, prompt="cot", split="train", max_new_tokens=512, limit=None)  # C.2, Table 3


def test_the_judge(parsed):
    given = parsed(judge._parse, "--predictions", "p", "--judge", "gpt-4", "--server", "http://s", "--output", "o.json")
    holds(given, per_task=50, temperature=0.0, max_new_tokens=512)  # App. H: 50 of each task


def test_splits():
    assert splits.PER_CLASS == {"obqa": 1000, "csqa": 800, "piqa": 2000, "siqa": 1330}  # Table 8
    assert splits.GSM8K_TRAIN == 4000 and splits.LOW_RESOURCE_BASE == 3000  # Table 8; C.1


def test_the_plans_that_bare_commands_make(command, demonstrations, preferences, tmp_path, capsys):
    """Phase 1: 4 epochs of ⌈20 / 128⌉ = 1 step, the first at the peak, Σ of the cosine 2e-5 (1 + 1 + ¾ + ¼). Phase 2:
    1000 steps, the first 100 of them the warm-up, Σ n/100 = 50.5, then Σ n/900 = 450.5 on the way down."""
    student = write_student(tmp_path / "student")
    common = ("--student", student, "--output", tmp_path / "run", "--dry-run")
    assert command(train_it, *common, "--demonstrations", demonstrations) == 0
    said = capsys.readouterr().out
    assert "4 steps of 20 rows, 4 epochs of 20" in said and "(highest 2e-05) sum to 6e-05" in said
    assert command(train_dpo, *common, "--preferences", preferences) == 0
    said = capsys.readouterr().out
    assert "1000 steps of 20 rows" in said and "(highest 1e-06)" in said
    total = float(re.search(r"sum to ([\d.e-]+)", said)[1])
    assert total == pytest.approx(1e-6 * (101 / 2 + 901 / 2), rel=2e-3)
