"""Learning rates at set steps, and which rows a step takes."""

import json
import os
from argparse import Namespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import train_dpo
from selfrefine import fast, flags
from selfrefine.errors import UserError
from selfrefine.files import write_whole
from selfrefine.model import LINEARS
from selfrefine.model.lora import NF4Linear, add_lora, lora_parameters
from selfrefine.model.student import FAMILIES, load_student
from selfrefine.training import plan
from selfrefine.training.batches import Example, micro_batches, step_indices, steps_per_epoch
from selfrefine.training.checkpoint import Progress
from selfrefine.training.plan import dequantize_once, disk, memory
from selfrefine.training.progress import Metrics
from selfrefine.training.schedule import constant, cosine, linear
from tests.conftest import HEADS, TINY


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 1 / 3), (1, 2 / 3), (2, 1.0), (3, 1.0), (51.5, 0.5), (99, 0.000262)],
)
def test_cosine(step, factor):
    """100 steps, 3 of warm-up (ratio 0.03, §3.2.1): thirds, then ½(1 + cos π(s − 3)/97); half-way at 3 + 97/2."""
    assert cosine(step, 100, 3) == pytest.approx(factor, abs=1e-6)


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.01), (49, 0.5), (99, 1.0), (100, 1.0), (550, 0.5), (999, 1 / 900)],
)
def test_linear(step, factor):
    """1000 steps, 100 of warm-up (§3.2.1): hundredths, then (1000 − s)/900."""
    assert linear(step, 1000, 100) == pytest.approx(factor)


@pytest.mark.parametrize(("step", "factor"), [(0, 0.01), (98, 0.99), (99, 1.0), (100, 1.0), (999, 1.0)])
def test_constant(step, factor):
    """100 steps of warm-up in hundredths, then no decay (Rafailov et al.'s code)."""
    assert constant(step, 1000, 100) == pytest.approx(factor)


def test_no_step_has_a_rate_of_zero():
    for steps in range(1, 30):
        for warmup in range(steps + 1):
            assert all(
                0 < schedule(s, steps, warmup) <= 1 for schedule in (cosine, linear, constant) for s in range(steps)
            )


def test_a_run_that_ends_inside_its_warm_up():
    assert [linear(step, 4, 100) for step in range(4)] == [0.01, 0.02, 0.03, 0.04]


def test_an_epoch_sees_every_row_once_and_epochs_differ():
    assert steps_per_epoch(10, 4) == 3
    epochs = [[row for step in range(3 * e, 3 * e + 3) for row in step_indices(10, 4, 0, step)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]
    assert len(step_indices(10, 4, 0, 2)) == 2
    assert step_indices(10, 4, 0, 1) != step_indices(10, 4, 1, 1)


def test_the_order_of_rows_draws_from_no_generator_but_its_own():
    state = torch.get_rng_state()
    step_indices(9, 2, seed=1, step=3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("heads", [{}, {"head_dim": 48}])
def test_the_estimate_counts_every_familys_layers(family, heads):
    """Heads that the configuration gives a width of their own, and those that share the hidden size."""
    config = AutoConfig.for_model(family, **{**TINY, **HEADS, **heads})
    with torch.device("meta"):
        layers = AutoModelForCausalLM.from_config(config).model.layers
    weights = sum(m.weight.numel() for m in layers.modules() if isinstance(m, torch.nn.Linear))
    given = {"micro_batch_tokens": 10, "dequantize_once": True, "lora_rank": 4, "lora_dropout": 0.0}
    args = Namespace(**given, lora_targets=LINEARS, gradient_checkpointing=False)
    told = memory(config, args, torch.float32)
    assert told["the same dequantised"] == 4 * weights
    # 4 bits a weight; 64 share a byte, and 256 of these bytes a float32 (double quantisation)
    assert told["4-bit layers"] == int(weights * (1 / 2 + 1 / 64 + 4 / (64 * 256)))
    untied = memory(config, args, torch.float32)["embeddings and head"]
    config.tie_word_embeddings = True
    assert untied == 2 * memory(config, args, torch.float32)["embeddings and head"] == 2 * 320 * 128 * 4
    assert told["logits"] == 10 * 320 * 4 * 2
    # dropout keeps a byte of each number that goes into an adapted layer
    args.lora_dropout = 0.1
    more = memory(config, args, torch.float32)["activations"] - told["activations"]
    assert more == 10 * sum(m.weight.shape[1] for m in layers.modules() if isinstance(m, torch.nn.Linear))
    args.lora_dropout, args.dequantize_once = 0.0, False
    assert memory(config, args, torch.float32).keys() == told.keys() - {"the same dequantised"}
    # checkpointing keeps each of the two layers' inputs, and what one layer alone keeps while it goes backward
    args.gradient_checkpointing = True
    assert memory(config, args, torch.float32)["activations"] == told["activations"] / 2 + 10 * 2 * 128 * 4


@pytest.mark.parametrize(("free", "held"), [(2, False), (2.01, True)])
def test_weights_are_held_dequantised_on_a_cpu_with_twice_the_memory(monkeypatch, free, held):
    config = AutoConfig.for_model("llama", **TINY, **HEADS)
    weights = 2 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 192)  # two layers: q o, k v, gate up down
    monkeypatch.setattr(plan, "free_memory", lambda device: free * 4 * weights)
    assert dequantize_once(config, torch.device("cpu"), torch.float32) is held
    assert dequantize_once(config, torch.device("cpu"), torch.bfloat16)
    assert not dequantize_once(config, torch.device("cuda"), torch.bfloat16)


@pytest.mark.parametrize(
    ("epochs", "most", "steps"), [(None, None, 1000), (2, None, 10), (300, None, 1500), (300, 7, 7), (None, 7, 7)]
)
def test_phase_2_takes_1000_steps_or_what_is_asked(epochs, most, steps):
    """§3.2.1's cap is a default; 20 pairs are five steps of four."""
    asked = {"epochs": epochs, "max_steps": most, "batch_size": 4, "schedule": "constant"}
    rates = train_dpo.planned_rates(Namespace(**asked, learning_rate=0.5, warmup_steps=0), 20)
    assert rates == [0.5] * steps


def test_how_much_goes_through_at_a_time_is_what_the_help_says(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train_it.py", "--help"])
    with pytest.raises(SystemExit):
        flags.phase_1("")
    said = " ".join(capsys.readouterr().out.split())
    gpu, cpu = (plan.micro_batch_tokens(torch.device(name)) for name in ("cuda", "cpu"))
    assert f"go through at a time (default: {gpu} on a GPU, {cpu} on a CPU)" in said


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is no file that can be replaced: choose another --output"):
        write_whole(tmp_path / "pipe", b"x")
    assert (tmp_path / "pipe").is_fifo() and [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_the_summary_counts_what_this_process_did(tmp_path):
    metrics = Metrics(tmp_path, step=0)
    metrics.write(step=1, loss=1.0, tokens=1200)
    metrics.write(step=1, validation_loss=0.5)
    metrics.write(step=2, loss=1.0, tokens=34)
    said = metrics.summary(Progress(step=2, best_step=1, best_loss=0.5))
    assert said.startswith("2 steps done; here 1,234 tokens in ") and "lowest validation loss 0.5000, at step 1" in said
    assert "lowest" not in metrics.summary(Progress(step=2))
    (tmp_path / "lost").mkdir()
    Metrics(tmp_path / "lost", step=2).write(step=3)  # whose lines somebody has removed: it goes on
    assert [json.loads(line)["step"] for line in (tmp_path / "lost" / "metrics.jsonl").open()] == [3]
    seconds = [json.loads(line)["seconds"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert metrics.seconds == pytest.approx(sum(seconds)) and min(seconds) > 0
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')  # torn by a kill
    Metrics(tmp_path, step=1)  # goes on from a checkpoint of step 1: what came after it is cut
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()] == [1, 1]


def test_micro_batches_fit_their_budget_and_keep_every_index():
    """Widest first; each filled as long as its size times its widest is at most 64 and the next is at least four
    fifths as wide; one over the budget alone."""
    widths = [3, 30, 8, 10, 200, 1, 15, 30, 30, 7]
    assert micro_batches(range(10), widths, 64) == [[4], [1, 7], [8], [6], [3, 2], [9], [0], [5]]
    assert micro_batches([0, 1, 2], [4, 4, 4], 8) == [[0, 1], [2]]
    assert micro_batches([0, 1], [4, 5], 9) == [[1], [0]]
    assert micro_batches([0, 1], [4, 5], 10) == [[1, 0]]
    assert micro_batches([], widths, 64) == []


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("targets", [LINEARS, ("q_proj", "v_proj"), ("o_proj", "down_proj")])
def test_the_estimate_of_activations_is_what_autograd_keeps(student_folder, dropout, targets):
    """Within a sixth, at rows so short that attention's own matrices are small."""
    student = load_student(student_folder, torch.device("cpu"), torch.float32)
    add_lora(student, rank=4, alpha=8, dropout=dropout, seed=0, targets=targets)
    fast.speed_up(student)
    rows = [Example([1, 2, 3, 4], [5, 6]) for _ in range(64)]
    frozen, kept = {p.untyped_storage().data_ptr() for p in student.parameters()}, {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in frozen:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        fast.response_log_probs(student.train(), rows)
    args = Namespace(
        micro_batch_tokens=64 * 6,
        gradient_checkpointing=False,
        dequantize_once=True,
        lora_rank=4,
        lora_dropout=dropout,
        lora_targets=[*targets, targets[0]],  # named twice, there once
    )
    estimate = memory(student.config, args, student.dtype)
    assert sum(storage.nbytes() for storage in kept.values()) == pytest.approx(estimate["activations"], rel=1 / 6)
    weights = sum(m.in_features * m.out_features for m in student.modules() if isinstance(m, NF4Linear))
    assert estimate["the same dequantised"] == 4 * weights
    trained = sum(parameter.numel() for parameter in lora_parameters(student).values())
    assert estimate["adapters, gradients, moments"] == 16 * trained
    assert disk(student.config, args) == 4 * trained * (2 + 3 * 3)  # best and last; two checkpoints and the next
