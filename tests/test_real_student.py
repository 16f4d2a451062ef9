"""A real ChatML model (SmolLM2-135M-Instruct) is evaluated, tuned, self-refined and merged, for a few steps.

With SELFREFINE_TEST_STUDENT set to its folder, `pytest -m long tests/test_real_student.py` takes minutes on one core.
"""

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import evaluate
import train_dpo
import train_it
from selfrefine import merge
from selfrefine.model.adapter import load_adapter
from selfrefine.model.encoding import encode_prompt
from selfrefine.model.student import fingerprint, load_student, load_tokenizer
from selfrefine.tasks.prompts import prompt
from selfrefine.tasks.questions import Question

pytestmark = pytest.mark.long
ASKED = (
    ("What is 3 + 4?", "7"),
    ("What is 10 - 6?", "4"),
    ("How many legs have two dogs?", "8"),
    ("And 2 times 6?", "12"),
)


@pytest.fixture
def chatml(tmp_path) -> Path:
    """The model as base checkpoints have it: its tokenizer and configuration say that <|endoftext|> ends a text."""
    named = os.environ.get("SELFREFINE_TEST_STUDENT")
    if not named:
        pytest.skip("set SELFREFINE_TEST_STUDENT to a folder with SmolLM2-135M-Instruct")
    folder = shutil.copytree(named, tmp_path / "student", copy_function=os.symlink)
    changes = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    for name, change in (("tokenizer_config.json", changes), ("config.json", {"eos_token_id": 0, "pad_token_id": 0})):
        value = json.loads((folder / name).read_text()) | change
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(value))
    return folder


def test_a_real_chat_model_through_all_of_it(chatml, command, tmp_path):
    questions, demonstrations = tmp_path / "q.jsonl", tmp_path / "d.jsonl"
    questions.write_text("".join(json.dumps({"question": q, "target": t}) + "\n" for q, t in ASKED))
    rows = [
        {"instruction": "Answer the following mathematical question with numerical solution.", "target": target}
        | {"input": f"Question: {question}\nAnswer: Let's think step by step", "output": f"The answer is {target}."}
        for question, target in ASKED
    ]
    demonstrations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    student = ("--student", chatml, "--device", "cpu")
    asked = (*student, "--questions", questions, "--max-new-tokens", 96)

    assert command(evaluate, *asked, "--output", tmp_path / "baseline.json") == 0
    answers = [json.loads(line) for line in (tmp_path / "baseline.predictions.jsonl").read_text().splitlines()]
    assert sum(answer["ended"] for answer in answers) >= 4  # of 8: before, none ended where its turn did
    assert not any(mark in answer["text"] for answer in answers for mark in ("<|im_", "assistant\n", "user\n"))

    train = (*student, "--batch-size", 2, "--max-steps", 3, "--demonstrations", demonstrations)
    assert command(train_it, *train, "--output", tmp_path / "it", "--learning-rate", 1e-3) == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "it/metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    refine = (*train, "--adapter", tmp_path / "it", "--output", tmp_path / "sr", "--max-new-tokens", 32)
    assert command(train_dpo, *refine, "--validation-fraction", 0) == 0
    metrics = [json.loads(line) for line in (tmp_path / "sr/metrics.jsonl").read_text().splitlines()]
    first = next(row for row in metrics if row["step"] == 1)
    assert abs(first["loss"] - math.log(2)) < 5e-3
    assert command(evaluate, *asked, "--adapter", tmp_path / "sr", "--output", tmp_path / "sr.json") == 0

    flags = (*student[:2], "--adapter", tmp_path / "sr", "--output", tmp_path / "merged")
    assert command(merge, *flags) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    ours = load_student(chatml, torch.device("cpu"), torch.float32)
    load_adapter(ours, tmp_path / "sr", fingerprint(chatml))
    tokenizer = load_tokenizer(tmp_path / "merged")
    ids = encode_prompt(tokenizer, prompt(Question("q", "1", *ASKED[0]), cot=True), chat_template=True)
    with torch.no_grad():
        both = [model(input_ids=torch.tensor([ids])).logits for model in (merged, ours)]
    torch.testing.assert_close(*both, rtol=0.02, atol=0.1)
