"""Each idea of `selfrefine/fast/` against the plain formula that it replaces; then all of them, in whole runs."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

import evaluate
import train_dpo
import train_it
from selfrefine import fast
from selfrefine.fast.attention import NAME
from selfrefine.fast.blocks import slim
from selfrefine.fast.dense import hold_dequantized
from selfrefine.fast.head import TokenLogProbs
from selfrefine.fast.lora import dropout_mask, forward
from selfrefine.model.lora import LoRALinear, NF4Linear, add_lora, lora_layers, lora_parameters
from selfrefine.model.student import FAMILIES, additive, load_student
from selfrefine.sampling import sample
from selfrefine.training import log_probs as plain
from selfrefine.training.batches import Example
from tests.conftest import lines, phase_1, phase_2, write_student
from tests.test_log_probs import assert_same, gradients, pairs_and_sides, sequences
from tests.test_lora import layer as nf4_layer

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
DTYPES = (torch.float32, torch.bfloat16)
SAPPHIRE_RAPIDS = {"cpu_name": "Intel Xeon", "avx512_bf16": True, "avx512_fp16": True, "amx_bf16": True}


# Products in float32


@pytest.fixture(params=["own type", "wide"])
def able(request, monkeypatch) -> dict[str, bool]:
    """A CPU that is quickest at bfloat16's products in bfloat16, and one that is in float32."""
    able = SAPPHIRE_RAPIDS | {"amx_bf16": request.param == "own type"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    return able


class Products(TorchDispatchMode):
    """The types of all factors of matrix products."""

    def __init__(self):
        super().__init__()
        self.types = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in str(function) for name in ("mm", "linear", "matmul", "attention")):
            self.types |= {part.dtype for part in args if isinstance(part, torch.Tensor)}
        return function(*args, **kwargs or {})


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (SAPPHIRE_RAPIDS | {"amx_bf16": False}, torch.float32),
        (SAPPHIRE_RAPIDS, torch.bfloat16),
        (SAPPHIRE_RAPIDS | {"amx_bf16": False, "avx512_fp16": False}, torch.bfloat16),  # Cooper Lake
        (SAPPHIRE_RAPIDS | {"amx_bf16": False, "cpu_name": "AMD EPYC"}, torch.bfloat16),
        ({}, torch.bfloat16),
    ],
)
def test_wide_products(student_folder, monkeypatch, flags, expected):
    """A step's products, forward and backward, are of one type; the gradients are as near to float32's in both."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    rows, got = sequences((5, 30), (40, 9)), []
    for dtype in (torch.float32, torch.bfloat16):
        student = load_student(student_folder, CPU, dtype)
        add_lora(student, rank=4, alpha=8, dropout=0.0, seed=0)
        for layer in lora_layers(student).values():
            torch.nn.init.constant_(layer.B, 0.01)
        fast.speed_up(student)
        with Products() as products:
            got.append(gradients(student, -fast.response_log_probs(student, rows).sum()))
        assert products.types == {expected if dtype == torch.bfloat16 else dtype}
    exact, rounded = (torch.cat([part.flatten() for part in one.values()]) for one in got)
    assert (rounded - exact).norm() < 0.03 * exact.norm()


# LoRA as one function


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora(able, dtype, dropout):
    """Output and gradients by the formula y = x Wᵀ + b + (α/r) dropout(x) Aᵀ Bᵀ on plain float64 matrices."""
    adapted = LoRALinear(nf4_layer(dtype, bias=torch.randn(96)), rank=4, alpha=8, dropout=dropout)
    torch.nn.init.normal_(adapted.A)
    torch.nn.init.normal_(adapted.B)
    x = torch.randn(2, 3, 128, dtype=dtype, requires_grad=True)
    upstream = torch.randn(2, 3, 96, dtype=dtype)
    torch.manual_seed(3)
    y = forward(adapted, x)
    y.backward(upstream)

    torch.manual_seed(3)
    kept = dropout_mask(torch.Size((6, 128)), dropout, CPU)[0].view(2, 3, 128).double() / (1 - dropout)
    w, bias, a, b, z = (
        t.detach().double() for t in (adapted.base.dequantize(), adapted.base.bias, adapted.A, adapted.B, x)
    )
    a.requires_grad_(), b.requires_grad_(), z.requires_grad_()
    expected = z @ w.T + bias + 2.0 * ((z * kept) @ a.T) @ b.T
    expected.backward(upstream.double())
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for got, wanted in ((y, expected), (x.grad, z.grad), (adapted.A.grad, a.grad), (adapted.B.grad, b.grad)):
        assert (got.double() - wanted).norm() < tolerance * wanted.norm()


@pytest.mark.parametrize("dropout", [0.0001, 0.1, 0.5, 0.9999])
def test_dropout_keeps_each_element_by_itself(dropout):
    """Binomial counts, within 5 σ: in all, at each of the 4 places in a random word, of neighbours kept together."""
    torch.manual_seed(0)
    kept, share = dropout_mask(torch.Size((999, 1001)), dropout, CPU)
    assert kept.shape == (999, 1001) and share == pytest.approx(1 - dropout, abs=2**-16)
    flat = kept.flatten()
    together = [(flat[1:] & flat[:-1], share**2), (flat[4:] & flat[:-4], share**2)]
    for counted, expected in [(flat, share), *((flat[place::4], share) for place in range(4)), *together]:
        sigma = (expected * (1 - expected) / len(counted)) ** 0.5
        assert counted.double().mean().item() == pytest.approx(expected, abs=5 * sigma)


@pytest.mark.parametrize("dropout", [1e-9, 1 - 1e-9])
def test_dropout_near_its_ends_neither_overflows_nor_divides_by_zero(dropout):
    kept, share = dropout_mask(torch.Size((64, 64)), dropout, CPU)
    assert 0 < share <= 1 and kept.double().mean() == pytest.approx(share, abs=1e-3)


def test_nothing_dense_is_kept_for_the_backward():
    """Of a 512 x 512 layer: x and x Aᵀ, A and B, but never the dequantised W."""
    adapted = LoRALinear(nf4_layer(outputs=512, inputs=512), rank=4, alpha=8, dropout=0.0)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        forward(adapted, torch.randn(3, 512, requires_grad=True))
    assert sum(t.numel() for t in kept.values()) == 3 * 512 + 3 * 4 + 2 * 4 * 512


# The head


@pytest.mark.parametrize("margin", [5.0, 9.0, 12.0])
def test_a_confident_token_keeps_its_gradient_in_bfloat16(able, margin):
    """At p = 0.33, 0.96 and 0.998: W[w] − softmax(h W)ᵀ W within 1 % of float64's from the same logits; with the
    softmax rounded before the subtraction it would be 0.2, 4 and 100 % off."""
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(300, 64, generator=generator)
    head[7, 0], head[:7, 0], head[8:, 0] = margin, 0.0, 0.0
    head = head.bfloat16()
    states = torch.zeros(1, 64, dtype=torch.bfloat16)
    states[0, 0] = 1.0
    states.requires_grad_()
    log_prob = TokenLogProbs.apply(states, head, torch.tensor([7]))
    (slope,) = torch.autograd.grad(log_prob.sum(), states)
    probabilities = (states.detach() @ head.T).double().softmax(dim=1)  # (1, V)
    probabilities[0, 7] -= 1
    expected = -probabilities @ head.double()
    assert (slope.double() - expected).norm() < 0.01 * expected.norm()


def test_head(monkeypatch):
    """log softmax(H Wᵀ)[w] and its gradient under autograd in float64; 7 tokens in chunks of 3."""
    monkeypatch.setattr("selfrefine.fast.head.CHUNK", 3)
    states, head, targets = torch.randn(7, 16), torch.randn(30, 16), torch.randint(30, (7,))
    upstream, ours, theirs = torch.randn(7), states.clone().requires_grad_(), states.double().requires_grad_()
    got = TokenLogProbs.apply(ours, head, targets)
    expected = (theirs @ head.double().T).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    got.backward(upstream)
    expected.backward(upstream.double())
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-5)


# Norms, MLPs, rotations


def pair(module: torch.nn.Module, dtype: torch.dtype) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The module as transformers made it, and one with our forward, of the same random weights."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0.5, 0.3)
    module = module.to(dtype).requires_grad_(False)
    ours = type(module).__new__(type(module))
    ours.__dict__ = dict(module.__dict__)
    slim(ours)
    assert "forward" in ours.__dict__ and "forward" not in module.__dict__
    return module, ours


def outcome(module: torch.nn.Module, x: torch.Tensor, upstream: torch.Tensor):
    """Output, the input's gradient, and how many elements autograd kept besides the frozen parameters."""
    x = x.clone().requires_grad_()
    frozen = {parameter.data_ptr() for parameter in module.parameters()}
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        y = module(x)
    y.backward(upstream)
    return y.detach(), x.grad, sum(t.numel() * t.itemsize for at, t in kept.items() if at not in frozen)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm(dtype):
    """To the bit forward; the gradient to rounding; at most the input and a number a row kept."""
    theirs, ours = pair(LlamaRMSNorm(64, eps=1e-5), dtype)
    x, upstream = 3 * torch.randn(2, 5, 64).to(dtype), torch.randn(2, 5, 64).to(dtype)
    (y, dx, _), (got_y, got_dx, kept) = outcome(theirs, x, upstream), outcome(ours, x, upstream)
    assert torch.equal(got_y, y)
    assert (got_dx - dx).norm() < (1e-6 if dtype == torch.float32 else 1e-2) * dx.norm()
    assert kept == x.numel() * x.itemsize + 10 * 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu(dtype):
    """To the bit forward; the gradient to rounding; gate and up kept, and nothing else of their size."""
    config = AutoConfig.for_model("llama", hidden_size=32, intermediate_size=96)
    theirs, ours = pair(LlamaMLP(config), dtype)
    x, upstream = torch.randn(2, 5, 32).to(dtype), torch.randn(2, 5, 32).to(dtype)
    (y, dx, full), (got_y, got_dx, kept) = outcome(theirs, x, upstream), outcome(ours, x, upstream)
    assert torch.equal(got_y, y)
    assert (got_dx - dx).norm() < (1e-6 if dtype == torch.float32 else 2e-2) * dx.norm()
    assert kept == 2 * 10 * 96 * x.itemsize < full


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_rotation(family, dtype):
    """Every family's own model, with grouped queries and positions that start anywhere: to the bit, and so is
    the gradient of what the blocks get."""
    config = AutoConfig.for_model(
        family, vocab_size=30, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=NAME).requires_grad_(False)
    positions = torch.arange(6) + torch.tensor([[0], [5]])
    causal = additive(torch.ones(2, 1, 6, 6, dtype=torch.bool).tril(), dtype)
    embedded, upstream = torch.randn(2, 6, 32).to(dtype), torch.randn(2, 6, 32).to(dtype)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        x = embedded.clone().requires_grad_()
        y = model.model(inputs_embeds=x, position_ids=positions, attention_mask=causal, use_cache=False)[0]
        y.backward(upstream)
        return y.detach(), x.grad

    slim(model)
    got_y, got_dx = run()
    for layer in model.model.layers:
        del layer.self_attn.forward  # transformers' own again, under our norms and MLPs
    y, dx = run()
    assert torch.equal(got_y, y) and torch.equal(got_dx, dx)


# Attention


@pytest.mark.parametrize("which", ["single", "pairs"])
def test_attention(student, which):
    """As two products and as torch's kernel: values and every gradient, under the causal mask and a shared prompt's."""
    got = []
    fast.speed_up(student)
    assert student.config._attn_implementation == NAME
    for attention in (NAME, "sdpa"):
        student.set_attn_implementation(attention)
        scored = fast.response_log_probs(student, sequences((5, 30), (40, 9)))
        if which == "pairs":
            scored = torch.cat(fast.pair_log_probs(student, pairs_and_sides()[0]))
        got.append(gradients(student, scored.sum()) | {"scored": scored.detach()})
    assert_same(got[0], got[1], 1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_rows_without_branches_need_no_mask(student, monkeypatch, padded):
    """What torch's fused causal kernel asks for: no mask is made where the rows of a batch have unlike lengths."""
    given = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, attn_mask=None, is_causal=False, **others):
        given.append((attn_mask, is_causal))
        return original(*args, attn_mask=attn_mask, is_causal=is_causal, **others)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    fast.response_log_probs(student, sequences((5, 9), (3, 4) if padded else (6, 8)))
    assert given and all(mask is None and causal for mask, causal in given)


# The shared prompt


def test_prefix(student, monkeypatch):
    """Prompt of 2, y_w of 2, y_l of 1, beside a row of 6: positions 2 3 and 2; y_l sees the prompt and itself."""
    calls, forward = [], student.base_model.forward
    monkeypatch.setattr(student.base_model, "forward", lambda **call: (calls.append(call), forward(**call))[1])
    prompt = [1, 5]
    rows = [Example(prompt, [6, 2]), Example(prompt, [2]), Example([1, 8, 9, 9], [5, 2])]
    got = fast.response_log_probs(student, rows)
    assert calls[0]["input_ids"].tolist() == [[1, 5, 6, 2, 2, 0], [1, 8, 9, 9, 5, 2]]
    assert calls[0]["position_ids"].tolist() == [[0, 1, 2, 3, 2, 0], [0, 1, 2, 3, 4, 5]]
    assert (calls[0]["attention_mask"][0, 0, :5, :5] == 0).int().tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]
    ]  # fmt: skip
    expected = torch.cat([plain.response_log_probs(student, [row]) for row in rows])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert_same(gradients(student, got.sum()), gradients(student, expected.sum()), 1e-5)


# Weights held dequantised


def test_dense():
    frozen, x = nf4_layer(), torch.randn(3, 128)
    expected = frozen(x)
    hold_dequantized(frozen)
    assert frozen.dense is not None
    assert torch.equal(frozen(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_held_dequantised_train_to_the_same_bits(student_folder, dtype):
    """And sampling leaves them held."""
    rows = sequences((5, 9), (3, 4))
    read, held = (load_student(student_folder, CPU, dtype) for _ in range(2))
    for student in (read, held):
        add_lora(student, rank=4, alpha=8, dropout=0.0, seed=0)
    hold_dequantized(held)
    list(sample(held, [[1, 5, 9]], [0], end_ids=[2], temperature=0.1, max_new_tokens=5))
    assert all(layer.dense.dtype == dtype for layer in held.modules() if isinstance(layer, NF4Linear))
    expected = gradients(read.train(), -fast.response_log_probs(read, rows).sum())
    assert_same(gradients(held.train(), -fast.response_log_probs(held, rows).sum()), expected, 0.0)


# All together


def moved(one: dict, other: dict, start: dict) -> None:
    """Adapters that went the same way: the difference at most 1e-3 of the move, itself above 1e-3, A and B apart."""
    for side in ("lora_A", "lora_B"):
        names = [name for name in start if side in name]
        apart = math.sqrt(sum((one[name] - other[name]).double().square().sum().item() for name in names))
        move = math.sqrt(sum((one[name] - start[name]).double().square().sum().item() for name in names))
        assert move > 1e-3 and apart <= 1e-3 * move, (side, apart, move)


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_runs_are_those_of_the_plain_path(command, demonstrations, preferences, tmp_path, family):
    """Both phases on every family, float32, no dropout: what each step logs, and where the adapters go."""
    folder = write_student(tmp_path / "student", family)
    runs = {}
    for path in ("", "--plain"):
        it, sr = tmp_path / f"it{path}", tmp_path / f"sr{path}"
        flags = [*phase_1(folder, demonstrations, it), "--lora-dropout", "0", *[path] * bool(path)]
        assert command(train_it, *flags, "--learning-rate", "1e-3", "--validation-fraction", "0.2") == 0
        flags = [*phase_2(folder, tmp_path / "it", sr), "--preferences", preferences, *[path] * bool(path)]
        assert command(train_dpo, *flags, "--learning-rate", "1e-3") == 0
        runs[path] = [lines(it, timed=False), lines(sr, timed=False)]
    for ours, theirs in zip(runs[""], runs["--plain"], strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
    for phase, start in (("it", first_adapter(folder)), ("sr", load_file(tmp_path / "it/adapter_model.safetensors"))):
        ended = [load_file(tmp_path / f"{phase}{path}/last/adapter_model.safetensors") for path in runs]
        moved(*ended, start)


@pytest.mark.parametrize("path", [(), ("--plain",)])
def test_the_scripts_take_the_path_that_is_asked_for(command, demonstrations, preferences, tmp_path, monkeypatch, path):
    """Nothing of the other path is called: neither its log-probabilities nor, on the plain path, `speed_up`."""
    student, called = write_student(tmp_path / "student"), set()

    def noted(module, name):
        function = getattr(module, name)

        def call(*arguments, **named):
            called.add((module.__name__.rpartition(".")[2], name))
            return function(*arguments, **named)

        return call

    names = [(plain, "response_log_probs"), (plain, "pair_log_probs"), (fast, "response_log_probs")]
    for module, name in [*names, (fast, "pair_log_probs"), (fast, "speed_up")]:
        monkeypatch.setattr(module, name, noted(module, name))
    taken = "log_probs" if path else "fast"
    sped = set() if path else {("fast", "speed_up")}
    assert command(train_it, *phase_1(student, demonstrations, tmp_path / "it"), *path) == 0
    assert called == {(taken, "response_log_probs"), *sped}
    called.clear()
    flags = [*phase_2(student, tmp_path / "it", tmp_path / "sr"), "--preferences", preferences]
    assert command(train_dpo, *flags, *path) == 0
    assert called - {("log_probs", "response_log_probs")} == {(taken, "pair_log_probs"), *sped}
    called.clear()
    flags = ["--student", student, "--tasks", "pocket", "--limit", "1", "--max-new-tokens", "2"]
    assert command(evaluate, *flags, "--output", tmp_path / "evaluation.json", *path) == 0
    assert called == sped


def first_adapter(folder) -> dict[str, torch.Tensor]:
    """The adapter that phase 1 starts from."""
    student = load_student(folder, CPU, torch.float32)
    add_lora(student, rank=4, alpha=8, dropout=0.0, seed=0)
    return {f"base_model.model.{name}": tensor.detach() for name, tensor in lora_parameters(student).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_plain_path(tmp_path, family):
    """To 1e-5 relative in norm, A and B apart, phase 1's and phase 2's; a row left out is far outside of that."""
    student = load_student(write_student(tmp_path, family), CPU, torch.float32)
    add_lora(student, rank=4, alpha=8, dropout=0.0, seed=0)
    for parameter in lora_parameters(student).values():
        torch.nn.init.normal_(parameter, 0.0, 0.05)
    rows, pairs = sequences((5, 30), (40, 9), (7, 12)), pairs_and_sides()[0]

    def all_of(formula, rows) -> list[dict]:
        chosen, rejected = formula.pair_log_probs(student, pairs[: len(rows) - 1])
        dpo = -(0.1 * chosen - 0.1 * rejected).sigmoid().log().sum()
        return [gradients(student, loss) for loss in (-formula.response_log_probs(student, rows).sum(), dpo)]

    expected, fewer = all_of(plain, rows), all_of(plain, rows[:2])
    fast.speed_up(student)
    for got, wanted, less in zip(all_of(fast, rows), expected, fewer, strict=True):
        for side in ("lora_A", "lora_B"):
            names = [name for name in wanted if side in name]
            vectors = [torch.cat([part[name].flatten() for name in names]).double() for part in (got, wanted, less)]
            assert (vectors[0] - vectors[1]).norm() < 1e-5 * vectors[1].norm()
            assert (vectors[2] - vectors[1]).norm() > 1e-2 * vectors[1].norm()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", ["single", "pairs"])
def test_the_gpu_computes_what_the_cpu_does(student_folder, which, dtype):
    """Log-probabilities and the gradients of every A and B, of rows alone and of pairs that share their prompt."""
    got = []
    for device in (CPU, CUDA):
        student = load_student(student_folder, device, dtype)
        add_lora(student, rank=4, alpha=8, dropout=0.0, seed=0)
        generator = torch.Generator().manual_seed(1)
        for module in lora_layers(student).values():
            module.B.data.copy_(torch.randn(module.B.shape, generator=generator) / 10)
        fast.speed_up(student)
        if which == "pairs":
            scored = torch.cat(fast.pair_log_probs(student, pairs_and_sides()[0]))
        else:
            scored = fast.response_log_probs(student, sequences((5, 9), (30, 4)))
        got.append((scored.detach().cpu(), [g.cpu().flatten() for g in gradients(student, scored.sum()).values()]))
    (on_cpu, wanted), (on_gpu, gradient) = got
    exact = dtype == torch.float32
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-4 if exact else 1e-2, atol=1e-3 if exact else 0.1)
    for one, other in zip(gradient, wanted, strict=True):
        assert one.any() and torch.nn.functional.cosine_similarity(one, other, dim=0) > (0.9999 if exact else 0.98)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gradient_checkpointing_on_a_gpu_draws_dropout_alike(student_folder):
    got = []
    for checkpointing in (False, True):
        student = load_student(student_folder, CUDA, torch.float32, gradient_checkpointing=checkpointing)
        add_lora(student, rank=4, alpha=8, dropout=0.2, seed=0)
        for module in lora_layers(student).values():
            torch.nn.init.constant_(module.B, 0.01)
        fast.speed_up(student)
        student.train()
        torch.manual_seed(7)
        got.append(gradients(student, -torch.cat(fast.pair_log_probs(student, pairs_and_sides()[0])).sum()))
    assert_same(got[1], got[0], 1e-4)
