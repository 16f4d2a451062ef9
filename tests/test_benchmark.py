"""The benchmark's last line, on a tiny student; and that its random weights are made for every published shape."""

import json

import pytest
import torch
from transformers import AutoConfig

from selfrefine import benchmark
from selfrefine.model.lora import lora_layers
from selfrefine.model.student import build


def result(command, capsys, *flags) -> dict:
    machine = ("--device", "cpu", "--dtype", "float32", "--rows", 4, "--steps", 2, "--lora-rank", 4)
    assert command(benchmark, *flags, *machine) == 0
    (line,) = [line for line in capsys.readouterr().out.split("\n") if line.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


@pytest.mark.parametrize("phase", ["it", "dpo", "sample"])
def test_the_last_line_is_a_result(command, capsys, student_folder, phase):
    said = result(command, capsys, "--config", student_folder, "--phase", phase, "--max-new-tokens", 8)
    assert said["tokens_per_second"] > 0 and said["peak_memory_mib"] > 100 and len(said["step_seconds"]) == 3
    assert 0 < said["share_of_matmul"] < 1.5


def test_no_layer_but_the_targets_is_adapted(command, capsys, student_folder, monkeypatch):
    adapted, add_lora = [], benchmark.add_lora

    def seen(student, **how):
        add_lora(student, **how)
        adapted.extend(path.rpartition(".")[2] for path in lora_layers(student))

    monkeypatch.setattr(benchmark, "add_lora", seen)
    result(command, capsys, "--config", student_folder, "--phase", "it", "--lora-targets", "v_proj")
    assert adapted == ["v_proj", "v_proj"]


def test_given_prompts_are_sampled(command, capsys, student_folder, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "What is 1 + 1?"}\n{"prompt": "And 2 + 2?"}\n')
    flags = ("--config", student_folder, "--phase", "sample", "--prompts", tmp_path / "p.jsonl", "--max-new-tokens", 8)
    said = result(command, capsys, *flags)
    tokens = said["tokens_per_second"] * sorted(said["step_seconds"][1:])[0]
    assert tokens <= 2 * 8 * 1.01


def test_no_more_tokens_are_counted_than_the_context_has_room_for(command, capsys, student_folder):
    flags = ("--config", student_folder, "--phase", "sample", "--max-new-tokens", 100_000, "--rows", 2)
    said = result(command, capsys, *flags)
    tokens = said["tokens_per_second"] * sorted(said["step_seconds"][1:])[0]
    assert tokens <= 4 * 512


@pytest.mark.parametrize("name", benchmark.CONFIGS)
def test_random_weights_fill_every_published_model(name, monkeypatch):
    """One narrow layer of each: every tensor by its checkpoint name, the block linears in four bits."""
    family, shape = benchmark.CONFIGS[name]
    small = {side: shape[side] // 16 for side in ("hidden_size", "intermediate_size")}
    config = AutoConfig.for_model(family, **shape | small | {"num_hidden_layers": 1, "vocab_size": 64})
    device = torch.device("cpu")
    student = build(config, benchmark._random_tensors(config, device, torch.bfloat16), device, torch.bfloat16, name)
    assert student.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8


def test_an_unknown_configuration_is_one_sentence(command, capsys):
    assert command(benchmark, "--config", "llama-9", "--phase", "it") == 2
    assert "llama-2-7b" in capsys.readouterr().err
