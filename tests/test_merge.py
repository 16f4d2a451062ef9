"""The merged folder: plain transformers gives the adapted student's logits; what rounding costs is said."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfrefine import ask, merge
from selfrefine.model.adapter import AdapterSettings, save_adapter
from selfrefine.model.lora import add_lora, lora_layers
from selfrefine.model.student import fingerprint, load_student
from tests.conftest import write_student

CPU = torch.device("cpu")


def adapt(folder, adapter, scale=0.02, targets=("q_proj", "down_proj")):
    """The student of `folder` with a random adapter over two of its layers' kinds, saved in `adapter`."""
    student = load_student(folder, CPU, torch.float32)
    add_lora(student, rank=4, alpha=8, dropout=0.0, seed=0, targets=targets)
    generator = torch.Generator().manual_seed(1)
    for layer in lora_layers(student).values():
        with torch.no_grad():
            layer.B.copy_(scale * torch.randn(layer.B.shape, generator=generator))
    settings = AdapterSettings(4, 8, 0.0, str(folder), fingerprint(folder), False, targets)
    save_adapter(student, adapter, settings)
    return student


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_plain_transformers_gives_our_logits(command, tmp_path, family, tied):
    """With biases (Qwen2) and tied embeddings; layers without an adapter are the dequantised ones too."""
    folder = write_student(tmp_path / "student", family, tie_word_embeddings=tied)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    student = adapt(folder, tmp_path / "adapter")
    flags = ("--student", folder, "--adapter", tmp_path / "adapter", "--output", tmp_path / "merged")
    assert command(merge, *flags) == 0
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert plain.dtype == torch.float16
    assert load_file(tmp_path / "merged/model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    ids = torch.randint(3, 320, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        bare = load_student(folder, CPU, torch.float32)(input_ids=ids).logits
        ours, theirs = student(input_ids=ids).logits, plain.float()(input_ids=ids).logits
    assert (ours - bare).abs().max() > 0.1  # the adapter does something
    torch.testing.assert_close(theirs, ours, rtol=1e-2, atol=1e-2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer("1 + 1").input_ids == AutoTokenizer.from_pretrained(folder)("1 + 1").input_ids
    assert tokenizer.chat_template == "{{ messages[0].content }}"


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_what_is_told_of_the_rounding_is_what_it_did(command, student_folder, tmp_path, capsys, name):
    """A change as fine as that of the paper's rates: many weights stay as they were, and yet the change is there."""
    student, dtype = adapt(student_folder, tmp_path / "adapter", scale=2e-4), getattr(torch, name)
    flags = ("--student", student_folder, "--adapter", tmp_path / "adapter", "--output", tmp_path / "merged")
    assert command(merge, *flags, "--dtype", name) == 0
    told = float(re.search(r"with ([\d.]+)% of what the adapter adds", capsys.readouterr().out)[1])
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert stored.dtype == dtype
    along, added, same, count = 0.0, 0.0, 0, 0
    for path, layer in lora_layers(student).items():
        delta, W = 2 * layer.B @ layer.A, layer.base.dequantize()
        done = stored.get_submodule(path).weight.float() - W.to(dtype).float()
        along, added = along + (done * delta).sum(), added + delta.square().sum()
        same, count = same + (done == 0).sum(), count + done.numel()
    assert told == pytest.approx(100 * (along / added).item(), abs=0.06)
    assert 95 < told < 105
    assert same / count > (0.4 if name == "bfloat16" else 0.05)


def test_a_folder_with_something_in_it_is_refused(command, student_folder, tmp_path, capsys):
    adapt(student_folder, tmp_path / "adapter")
    flags = ("--student", student_folder, "--adapter", tmp_path / "adapter", "--output")
    assert command(merge, *flags, tmp_path / "adapter") == 2
    assert "is there already and not empty" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "adapter")
    assert command(merge, *flags, tmp_path / "merged") == 2
    assert "no adapter_config.json" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_ask_lays_the_answers_of_bare_and_adapted_side_by_side(command, student_folder, tmp_path, capsys):
    """Each adapter after the bare student, at x and x̂; the adapted ones answer otherwise."""
    for name in ("one", "two"):
        adapt(student_folder, tmp_path / name, scale=0.3 if name == "one" else 0.6)
    adapters = ("--adapter", tmp_path / "one", tmp_path / "two")
    how = ("--max-new-tokens", 8, "--temperature", 1, "--top-k", 0, "--device", "cpu", "--dtype", "float32")
    assert command(ask, "--student", student_folder, *how, *adapters, "Which?", "--options", "ice", "steam") == 0
    parts = re.split(r"\n--- (.+), (x̂?)\n", capsys.readouterr().out)[1:]
    asked = list(zip(parts[::3], parts[1::3], strict=True))
    names = ("bare student", str(tmp_path / "one"), str(tmp_path / "two"))
    assert asked == [(name, form) for name in names for form in ("x", "x̂")]
    assert len(set(parts[2::3])) == 6


def test_what_is_asked_is_the_papers_prompt(command, student_folder, monkeypatch, capsys):
    """Table 2's and 3's; a question without options is an open one."""
    asked = []
    monkeypatch.setattr("selfrefine.model.encoding.encode_prompt", lambda _, text, **__: asked.append(text) or [1, 5])
    how = ("--student", student_folder, "--max-new-tokens", 2, "--device", "cpu")
    assert command(ask, "What is 1 + 1?", *how) == 0
    assert asked == [f"Answer the following question.\nQuestion: What is 1 + 1?\nAnswer:{t}" for t in ("", TRIGGER)]
    asked.clear()
    assert command(ask, "Which?", *how, "--options", "ice", "steam") == 0
    assert asked[0].startswith("Choose the answer to the question only from options A, B.") and "B) steam" in asked[0]
    assert command(ask, *how) == 2
    assert "there is no question" in capsys.readouterr().err


TRIGGER = " Let's think step by step"
