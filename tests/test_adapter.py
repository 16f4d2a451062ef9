"""Adapter folders: PEFT's names and config, exact reload, and a loader that is strict."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from selfrefine.errors import UserError
from selfrefine.model import LINEARS
from selfrefine.model.adapter import AdapterSettings, load_adapter, read_settings, save_adapter
from selfrefine.model.lora import add_lora, lora_parameters
from selfrefine.model.student import load_student

CPU = torch.device("cpu")
SETTINGS = AdapterSettings(rank=4, alpha=8, dropout=0.1, student="tiny", fingerprint="abc", chat_template=False)
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def folder(student, tmp_path):
    save_adapter(student, tmp_path, SETTINGS)
    return tmp_path


def change(folder, **tensors):
    path = folder / "adapter_model.safetensors"
    stored = load_file(path)
    for name, tensor in tensors.items():
        stored.pop(name)
        if tensor is not None:
            stored[name] = tensor
    save_file(stored, path)


def test_a_reload_gives_the_same_logits(student, folder, student_folder):
    again = load_student(student_folder, CPU, torch.float32)
    load_adapter(again, folder, "abc")
    ids = torch.randint(3, 320, (2, 9))
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, student(input_ids=ids).logits)


def test_the_file_has_the_names_that_peft_gives(folder):
    """`base_model.model.<path>.lora_{A,B}.weight`, float32, A (r, in) and B (out, r), read by safetensors alone."""
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as stored:
        names = set(stored.keys())
        assert stored.metadata() == {"format": "pt"}
        a, b = stored.get_tensor(FIRST), stored.get_tensor(FIRST.replace("lora_A", "lora_B"))
    projections = ["self_attn." + p for p in ("q_proj", "k_proj", "v_proj", "o_proj")]
    projections += ["mlp." + p for p in ("gate_proj", "up_proj", "down_proj")]
    assert names == {
        f"base_model.model.model.layers.{layer}.{projection}.lora_{side}.weight"
        for layer in range(2)
        for projection in projections
        for side in "AB"
    }
    assert a.shape == (4, 128) and b.shape == (128, 4) and a.dtype == b.dtype == torch.float32


def test_the_config_is_what_peft_reads(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "bias": "none",
        "target_modules": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
        "fan_in_fan_out": False,  # weights are (out, in)
        "inference_mode": True,
    }


def test_peft_itself_gives_the_same_logits(student, folder, student_folder):
    """Where PEFT is installed (it is no dependency): on the dequantised base, the same function."""
    peft = pytest.importorskip("peft", reason="PEFT is not installed, and not needed")
    from transformers import AutoModelForCausalLM

    from selfrefine.model.lora import lora_layers

    dense = AutoModelForCausalLM.from_pretrained(student_folder, dtype=torch.float32)
    with torch.no_grad():
        for path, layer in lora_layers(student).items():
            dense.get_submodule(path).weight.copy_(layer.base.dequantize())
        ids = torch.randint(3, 320, (2, 9))
        adapted = peft.PeftModel.from_pretrained(dense, folder).eval()
        torch.testing.assert_close(adapted(input_ids=ids).logits, student(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


def test_settings_survive(folder):
    assert read_settings(folder) == SETTINGS


def test_an_adapter_made_by_peft_on_q_and_v_alone_loads(student_folder, tmp_path):
    """PEFT's default for Llama: its config's list is in no order, and it has no file of ours."""
    bare = load_student(student_folder, CPU, torch.float32)
    add_lora(bare, rank=4, alpha=8, dropout=0.0, seed=0, targets=("q_proj", "v_proj"))
    for parameter in lora_parameters(bare).values():
        torch.nn.init.normal_(parameter, std=0.05)
    tensors = {f"base_model.model.{name}": p.detach() for name, p in lora_parameters(bare).items()}
    assert {name.split(".")[-3] for name in tensors} == {"q_proj", "v_proj"} and len(tensors) == 2 * 2 * 2
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["v_proj", "q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert read_settings(tmp_path).targets == ("q_proj", "v_proj")
    again = load_student(student_folder, CPU, torch.float32)
    load_adapter(again, tmp_path, "any")
    ids = torch.randint(3, 320, (2, 9))
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, bare(input_ids=ids).logits)


def test_an_adapter_that_peft_itself_made_by_its_defaults_loads(student_folder, tmp_path):
    """Where PEFT is installed: q and v, on the dequantised base, the same function."""
    peft = pytest.importorskip("peft", reason="PEFT is not installed, and not needed")
    from transformers import AutoModelForCausalLM

    from selfrefine.model.lora import NF4Linear, lora_layers

    ours = load_student(student_folder, CPU, torch.float32)
    dense = AutoModelForCausalLM.from_pretrained(student_folder, dtype=torch.float32)
    with torch.no_grad():
        for path, layer in ours.named_modules():
            if isinstance(layer, NF4Linear):
                dense.get_submodule(path).weight.copy_(layer.dequantize())
    settings = peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", init_lora_weights=False)
    theirs = peft.get_peft_model(dense, settings).eval()
    theirs.save_pretrained(tmp_path)
    load_adapter(ours, tmp_path, "any")
    assert {path.rpartition(".")[2] for path in lora_layers(ours)} == {"q_proj", "v_proj"}
    ids = torch.randint(3, 320, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modules", ["all-linear", r".*\.(q|v)_proj", ["self_attn.q_proj", "v_proj"]])
def test_a_pattern_or_paths_stand_for_layers(folder, student_folder, modules):
    """A pattern for those whose tensors are there."""
    path, tensors = folder / "adapter_model.safetensors", load_file(folder / "adapter_model.safetensors")
    named = LINEARS if modules == "all-linear" else ("q_proj", "v_proj")
    save_file({name: tensor for name, tensor in tensors.items() if name.split(".")[-3] in named}, path)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"target_modules": modules}))
    assert read_settings(folder).targets == named
    load_adapter(load_student(student_folder, CPU, torch.float32), folder, "abc")


@pytest.mark.parametrize("modules", [["q_proj", "lm_head"], [], None, 7])
def test_layers_that_are_not_the_blocks_are_one_sentence(folder, modules):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": modules}))
    with pytest.raises(UserError, match="target_modules"):
        read_settings(folder)


def test_a_layer_that_the_config_names_and_the_file_lacks_is_one_sentence(folder, student_folder):
    """Not a smaller adapter: half a file."""
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if "q_proj" not in name}, path)
    with pytest.raises(UserError, match=r"q_proj.*is missing"):
        load_adapter(load_student(student_folder, CPU, torch.float32), folder, "abc")


def test_an_adapter_made_by_peft_has_no_note_of_ours(folder):
    (folder / "selfrefine.json").unlink()
    assert read_settings(folder) == AdapterSettings(4, 8, 0.1, "tiny", "", None, LINEARS)


@pytest.mark.parametrize(
    "extra",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"alpha_pattern": {"q_proj": 32}},
        {"rank_pattern": {"q_proj": 2}},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"layers_to_transform": 0},
        {"layers_to_transform": [0]},
        {"layer_replication": [[0, 2]]},
        {"trainable_token_indices": [3]},
    ],
)
def test_an_adapter_that_scales_otherwise_is_one_sentence(folder, extra):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_rslora": False, "alpha_pattern": {}} | extra))
    with pytest.raises(UserError, match=f"{next(iter(extra))}: only plain LoRA"):
        read_settings(folder)


@pytest.mark.parametrize(
    "other", [{"peft_type": "IA3", "r": None}, {"peft_type": "PROMPT_TUNING"}, {"init_lora_weights": "pissa_niter_4"}]
)
def test_another_kind_of_adapter_is_named(folder, other):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | other))
    with pytest.raises(UserError, match=f"with {next(iter(other.values()))}: only plain LoRA"):
        read_settings(folder)


@pytest.mark.parametrize(
    ("tensor", "named"),
    [
        (None, "is missing"),
        (torch.zeros(4, 128), "all zero"),
        (torch.full((4, 128), torch.nan), "not finite"),
        (torch.ones(4, 64), "another model"),
    ],
)
def test_a_wrong_tensor_is_one_sentence(folder, student_folder, tensor, named):
    change(folder, **{FIRST: tensor})
    with pytest.raises(UserError, match=named):
        load_adapter(load_student(student_folder, CPU, torch.float32), folder, "abc")


@pytest.mark.parametrize(
    ("file", "key", "value", "named"),
    [
        *(("adapter_config.json", "r", value, "r is") for value in (0, -1, 2.0, "4", True, None, 2**17)),
        *(("adapter_config.json", "lora_alpha", value, "lora_alpha is") for value in (0, -2.0, "8", True, None)),
        *(("adapter_config.json", "lora_dropout", value, "lora_dropout is") for value in (1, -0.1, "0", False)),
        *(("selfrefine.json", "fingerprint", value, "fingerprint or chat_template") for value in (7, ["abc"], None)),
        *(("selfrefine.json", "chat_template", value, "fingerprint or chat_template") for value in ("yes", 1)),
    ],
)
def test_a_wrong_setting_is_one_sentence(folder, file, key, value, named):
    kept = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(kept | {key: value}))
    with pytest.raises(UserError, match=named):
        read_settings(folder)


def test_settings_at_their_limits_are_read(folder):
    kept = json.loads((folder / "adapter_config.json").read_text())
    for limits in (
        {"r": 1, "lora_alpha": 1e-9, "lora_dropout": 0},
        {"r": 2**16, "lora_alpha": 1e9, "lora_dropout": 0.999},
    ):
        (folder / "adapter_config.json").write_text(json.dumps(kept | limits))
        read = read_settings(folder)
        assert {"r": read.rank, "lora_alpha": read.alpha, "lora_dropout": read.dropout} == limits
    del kept["lora_dropout"]
    kept |= {"use_rslora": False, "use_dora": False, "alpha_pattern": {}, "layers_to_transform": None}  # as PEFT writes
    (folder / "adapter_config.json").write_text(json.dumps(kept))
    assert read_settings(folder).dropout == 0


def test_a_foreign_tensor_is_one_sentence(folder, student_folder):
    stored = load_file(folder / "adapter_model.safetensors")
    save_file(
        stored | {"base_model.model.lm_head.lora_A.weight": torch.ones(4, 128)}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(UserError, match="no place in this student"):
        load_adapter(load_student(student_folder, CPU, torch.float32), folder, "abc")


def test_another_student_is_one_sentence(folder, student_folder):
    with pytest.raises(UserError, match="another student"):
        load_adapter(load_student(student_folder, CPU, torch.float32), folder, "other")


def test_a_folder_without_an_adapter_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        read_settings(tmp_path / "nowhere")


def test_a_is_drawn_from_the_seed_alone(student_folder):
    drawn = []
    for seed in (0, 0, 1):
        student = load_student(student_folder, CPU, torch.float32)
        torch.rand(3)  # other random numbers in between change nothing
        add_lora(student, rank=4, alpha=8, dropout=0.0, seed=seed)
        drawn.append({name: p.detach().clone() for name, p in lora_parameters(student).items()})
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert any(not torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])
    assert all(not p.any() for name, p in drawn[0].items() if "lora_B" in name)


JSON = st.none() | st.booleans() | st.integers(-5, 10) | st.floats() | st.text(max_size=5) | st.lists(st.integers())
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "config": st.dictionaries(st.sampled_from(["r", "lora_alpha", "lora_dropout", "extra"]), JSON, max_size=3),
        "note": st.dictionaries(st.sampled_from(["fingerprint", "chat_template"]), JSON, max_size=2),
        "text": st.tuples(st.sampled_from(["adapter_config.json", "selfrefine.json"]), st.binary(max_size=30)),
        "tensor": st.sampled_from([None, (4, 128), (4, 64), (0,), ()]),
        "name": st.text(max_size=9),
        "cut": st.integers(0, 5000),
    },
)


@pytest.mark.parametrize(
    "amount", [pytest.param(100, id="some"), pytest.param(10_000, id="many", marks=pytest.mark.long)]
)
def test_any_other_folder_is_one_sentence(student, student_folder, tmp_path, amount):
    """Configs, notes and tensors changed at random: the adapter loads, finite, or a sentence; never a traceback."""
    save_adapter(student, tmp_path, SETTINGS)
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    base = load_student(student_folder, CPU, torch.float32)

    @settings(max_examples=amount, deadline=None)
    @given(CHANGES)
    def check(changes):
        for name, content in whole.items():
            (tmp_path / name).write_bytes(content)
        for name, key in (("adapter_config.json", "config"), ("selfrefine.json", "note")):
            (tmp_path / name).write_text(json.dumps(json.loads(whole[name]) | changes.get(key, {})))
        if "text" in changes:
            (tmp_path / changes["text"][0]).write_bytes(changes["text"][1])
        if "tensor" in changes or "name" in changes:
            shape = changes.get("tensor", (4, 128))
            stored = load_file(tmp_path / "adapter_model.safetensors")
            del stored[FIRST]
            if shape is not None:
                stored[changes.get("name", FIRST)] = torch.ones(shape)
            save_file(stored, tmp_path / "adapter_model.safetensors")
        if "cut" in changes:
            content = (tmp_path / "adapter_model.safetensors").read_bytes()
            (tmp_path / "adapter_model.safetensors").write_bytes(content[: changes["cut"]])
        target = copy.deepcopy(base)
        try:
            load_adapter(target, tmp_path, "abc")
        except UserError as error:
            assert str(error)
        else:
            assert all(parameter.isfinite().all() and parameter.any() for parameter in lora_parameters(target).values())

    check()
