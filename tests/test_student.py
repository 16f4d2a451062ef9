"""Loading: the four families, strictness, and that nothing is ever whole in 16 bits."""

import copy
import hashlib
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from selfrefine.errors import UserError
from selfrefine.model.encoding import end_ids
from selfrefine.model.lora import NF4Linear
from selfrefine.model.student import (
    FAMILIES,
    additive,
    context,
    find,
    fingerprint,
    load_student,
    load_tokenizer,
    load_unquantised,
    read_config,
)
from tests.conftest import write_student

CPU = torch.device("cpu")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers_with_the_dequantised_weights(tmp_path, family, tied):
    """To the bit: embeddings, norms, biases, rotary buffers and head are the checkpoint's, block linears in NF4. And
    our attention (`attention.py`), which both use for that, computes what torch's does."""
    folder = write_student(tmp_path, family, tie_word_embeddings=tied)
    student = load_student(folder, CPU, torch.float32)
    dense = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    quantised = {name: module for name, module in student.named_modules() if isinstance(module, NF4Linear)}
    assert len(quantised) == 2 * 7
    with torch.no_grad():
        ids = torch.randint(3, 320, (2, 9))
        original = dense(input_ids=ids).logits
        for name, module in quantised.items():
            dense.get_submodule(name).weight.copy_(module.dequantize())
        expected = dense(input_ids=ids).logits
        assert torch.equal(student(input_ids=ids).logits, expected)
        dense.set_attn_implementation("sdpa")
        torch.testing.assert_close(dense(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
    assert (original - expected).abs().max() > 0.01
    assert not any(p.requires_grad for p in student.parameters())
    assert not any(t.is_meta for t in [*student.parameters(), *student.buffers()])


def test_shards_are_filled_one_tensor_at_a_time(tmp_path, student_folder):
    """The same student from several shards and an index."""
    whole = AutoModelForCausalLM.from_pretrained(student_folder, dtype=torch.float32)
    whole.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ids = torch.randint(3, 320, (1, 9))
    with torch.no_grad():
        one = load_student(student_folder, CPU, torch.float32)(input_ids=ids).logits
        assert torch.equal(load_student(tmp_path, CPU, torch.float32)(input_ids=ids).logits, one)
    assert fingerprint(tmp_path) == fingerprint(student_folder)


def copied(folder, tmp_path, **changes):
    """A copy of the student with tensors replaced (or, given None, left out)."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def test_the_models_own_ends_are_read_where_it_names_them(tmp_path, student_folder, tokenizer):
    shutil.copytree(student_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 2]}')
    assert end_ids(load_student(tmp_path, CPU, torch.float32), tokenizer, False) == [2, 7]
    (tmp_path / "generation_config.json").unlink()
    student = load_student(tmp_path, CPU, torch.float32)
    assert end_ids(student, tokenizer, False) == [2]
    student.generation_config.eos_token_id = None
    assert end_ids(student, tokenizer, False) == [2]


def test_a_checkpoint_may_have_a_tied_head_too(tmp_path):
    """Its head is the embedding all the same."""
    folder = write_student(tmp_path / "tied", tie_word_embeddings=True)
    copied(folder, tmp_path / "both", lm_head__weight=torch.ones(320, 128))
    student = load_student(tmp_path / "both", CPU, torch.float32)
    assert student.lm_head.weight is student.model.embed_tokens.weight and not student.lm_head.weight.eq(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_seen_adds_the_least_number(dtype):
    added = additive(torch.tensor([True, False]), dtype)
    assert added.dtype == dtype and added.tolist() == [0.0, torch.finfo(dtype).min]


def test_old_llama_checkpoints_carry_rotary_buffers_that_are_not_needed(tmp_path, student_folder):
    folder = copied(student_folder, tmp_path, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(16))
    load_student(folder, CPU, torch.float32)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model__norm__weight": None}, "model.norm.weight"),
        ({"model__layers__1__mlp__up_proj__weight": torch.zeros(192, 64)}, "up_proj.weight"),
        ({"model__layers__0__mlp__experts": torch.zeros(4)}, "experts"),
    ],
)
def test_a_missing_misshapen_or_foreign_tensor_is_one_sentence(tmp_path, student_folder, changes, named):
    with pytest.raises(UserError, match=named):
        load_student(copied(student_folder, tmp_path, **changes), CPU, torch.float32)


def test_other_families_are_refused(tmp_path, student_folder):
    shutil.copytree(student_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "mixtral"}))
    with pytest.raises(UserError, match="mixtral"):
        read_config(tmp_path)


@pytest.mark.parametrize("other", ["mask", "head", "code"])
def test_a_model_that_would_be_sampled_wrong_is_refused(student_folder, monkeypatch, other):
    """One whose attention does not follow the mask that it is given, one whose logits are not its head's, one whose
    code takes no positions."""

    def load(*arguments, **flags):
        model = original(*arguments, **flags)
        part = model if other == "head" else model.model
        forward = part.forward
        if other == "code":
            part.forward = lambda input_ids: forward(input_ids)
        elif other == "mask":
            part.forward = lambda *a, attention_mask=None, **b: forward(
                *a, attention_mask=None if attention_mask is None else torch.zeros_like(attention_mask), **b
            )
        else:
            part.forward = lambda *a, **b: SimpleNamespace(logits=forward(*a, **b).logits.tanh())
        return model

    original = AutoModelForCausalLM.from_pretrained
    for dtype in (torch.bfloat16, torch.float32):
        assert load_unquantised(student_folder, CPU, dtype).dtype == dtype
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    with pytest.raises(UserError, match="a llama is not sampled right here: serve it"):
        load_unquantised(student_folder, CPU, torch.float32)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/model.safetensors", 5])
def test_an_index_cannot_lead_outside_its_folder(tmp_path, student_folder, shard):
    shutil.copytree(student_folder, tmp_path, dirs_exist_ok=True)
    index = {"weight_map": {"model.norm.weight": shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="outside its folder"):
        load_student(tmp_path, CPU, torch.float32)


def test_a_model_without_safetensors_is_one_sentence(tmp_path, student_folder):
    shutil.copytree(student_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing: the model needs its weights in safetensors"):
        load_student(tmp_path, CPU, torch.float32)


@pytest.mark.parametrize(
    ("positions", "window", "tokens"), [(100, None, 100), (100, 50, 50), (50, 100, 50), (None, None, math.inf)]
)
def test_the_context_is_what_positions_and_window_allow(positions, window, tokens):
    assert context(SimpleNamespace(max_position_embeddings=positions, sliding_window=window)) == tokens


def test_of_a_librarys_message_the_first_line_is_told(student_folder, monkeypatch):
    def fail(*_, **__):
        raise ValueError(f"\n{'x' * 300}\nmore")

    monkeypatch.setattr(AutoConfig, "from_pretrained", fail)
    with pytest.raises(UserError) as error:
        read_config(student_folder)
    assert str(error.value).endswith(f" ({'x' * 200}).")


def test_a_truncated_shard_is_one_sentence(tmp_path, student_folder):
    shutil.copytree(student_folder, tmp_path, dirs_exist_ok=True)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:5000])
    with pytest.raises(UserError, match="download it again"):
        load_student(tmp_path, CPU, torch.float32)


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "no/where/at-all", "/no/where", "~/nowhere"])
def test_a_name_that_is_nowhere_is_one_sentence(name):
    with pytest.raises(UserError, match="no such folder"):
        find(name)


def test_no_code_of_a_models_folder_is_run(tmp_path, student_folder):
    """Classes that its files name (`auto_map`) are passed over: model and tokenizer are transformers' own."""
    shutil.copytree(student_folder, tmp_path / "model")
    own = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nraise SystemExit('their code runs')\n"
    (tmp_path / "model/own.py").write_text(own)
    named = {"AutoConfig": "own.A", "AutoModelForCausalLM": "own.B", "AutoTokenizer": [None, "own.C"]}
    for file in ("config.json", "tokenizer_config.json"):
        content = json.loads((tmp_path / "model" / file).read_text()) | {"auto_map": named}
        (tmp_path / "model" / file).write_text(json.dumps(content))
    assert load_tokenizer(tmp_path / "model").eos_token == "</s>"
    for load in (load_student, load_unquantised):
        assert type(load(tmp_path / "model", CPU, torch.float32)) is LlamaForCausalLM


def test_fingerprints_tell_models_apart(tmp_path, student_folder):
    other = copied(student_folder, tmp_path, model__norm__weight=torch.full((128,), 0.5))
    assert fingerprint(other) != fingerprint(student_folder)


def test_a_fingerprint_is_of_names_shapes_types_and_first_rows(tmp_path):
    """By hand: adapters note it, so that it must stay what it is."""
    save_file(
        {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(2, dtype=torch.float16)}, tmp_path / "model.safetensors"
    )
    content = b"a [2] F16" + np.float16([1]).tobytes() + b"b [2, 3] F32" + np.float32([0, 1, 2]).tobytes()
    assert fingerprint(tmp_path) == hashlib.sha256(content).hexdigest()


def test_fingerprints_of_checkpoints_with_scalars(tmp_path):
    """A tensor of no dimension (a scale of a quantised checkpoint) counts too."""
    ids = set()
    for value in (1.0, 2.0):
        save_file({"w": torch.ones(2, 2), "scale": torch.tensor(value)}, tmp_path / "model.safetensors")
        ids.add(fingerprint(tmp_path))
    assert len(ids) == 2


def test_a_chat_template_in_a_file_of_its_own_comes_from_the_hub_too(tmp_path, tokenizer, monkeypatch):
    """Every file that transformers writes for a tokenizer passes the download's filter."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path)
    files = [path.name for path in tmp_path.iterdir()]
    assert "chat_template.jinja" in files

    def download(name, allow_patterns):
        assert sorted(filter_repo_objects(files, allow_patterns=allow_patterns)) == sorted(files)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find("someone/model") == tmp_path
