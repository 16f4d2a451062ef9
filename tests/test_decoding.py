"""`fast.decoding` against transformers' own forward: prompts that begin alike, tokens one by one, all four families."""

import pytest
import torch

from selfrefine import fast
from selfrefine.fast import decoding
from selfrefine.fast.decoding import Decoder, alike, held
from selfrefine.model.cache import KeyValues
from selfrefine.model.lora import LoRALinear, add_lora, lora_layers
from selfrefine.model.student import FAMILIES, load_student
from selfrefine.sampling import Plain, sample
from tests.conftest import write_student
from tests.test_lora import layer as nf4_layer

CPU = torch.device("cpu")
# x and x̂ of one question, x again, another question's x
PROMPTS = [[1, *range(5, 30)], [1, *range(5, 30), 7, 8, 9], [1, *range(5, 30)], [1, 70, 71, 72]]


def adapted(folder, dtype, family="llama", **changes):
    """A student of a family in `dtype`, with adapters whose B is not zero."""
    student = load_student(write_student(folder, family, **changes), CPU, dtype)
    add_lora(student, rank=4, alpha=8, dropout=0.0, seed=0)
    generator = torch.Generator().manual_seed(1)
    for layer in lora_layers(student).values():
        layer.B.data.copy_(0.05 * torch.randn(layer.B.shape, generator=generator))
    return student


@torch.inference_mode()
def logits(decoder) -> torch.Tensor:
    """Of four prompts and, after each, of three tokens; then the first row goes and the last takes its place."""
    got = [decoder.read(PROMPTS[:3], 0), decoder.read(PROMPTS[3:], 3)]
    ends = torch.tensor([len(prompt) for prompt in PROMPTS])
    for step in range(3):
        got.append(decoder.step(torch.tensor([40, 41, 42, 43]) + step, ends + step))
    decoder.cache.move(3, 0)
    got.append(decoder.step(torch.tensor([50, 51, 52]), ends[[3, 1, 2]] + 3))
    return torch.cat(got)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_float32_is_transformers_to_rounding(tmp_path, family, key_heads):
    student = adapted(tmp_path, torch.float32, family, num_key_value_heads=key_heads)
    expected = logits(Plain(student, 4))
    assert expected.std() > 0.1
    torch.testing.assert_close(logits(Decoder(student, 4)), expected, rtol=1e-4, atol=1e-5)


def test_the_cache_grows_by_blocks_and_keeps_what_it_has():
    cache = KeyValues(rows=2)
    for length, capacity in ((1, 64), (64, 64), (65, 128), (100, 128), (257, 320)):
        cache.reserve(length)
        assert cache.capacity == capacity
        if not cache.stored:
            cache.put(0, 1, torch.ones(4, 10, 8), 2 * torch.ones(4, 10, 8))
        keys, values = cache.stored[0]
        assert keys.shape == values.shape == (2, 4, capacity, 8)
        assert keys[1, :, :10].eq(1).all() and values[1, :, :10].eq(2).all()


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_as_near_to_float32_as_transformers_is(tmp_path, monkeypatch, family, products):
    """The error against the float32 student's logits, of the same 4-bit weights: no more than 1.2 times theirs, and
    0.8 where products are in float32 (keys and values are not)."""
    monkeypatch.setattr(decoding, "product_type", lambda x: products)
    exact = logits(Plain(adapted(tmp_path, torch.float32, family), 4))
    student = adapted(tmp_path, torch.bfloat16, family)
    plain, ours = logits(Plain(student, 4)), logits(Decoder(student, 4))
    most = 1.2 if products == torch.bfloat16 else 0.8
    assert 0 < (ours - exact).norm() < most * (plain - exact).norm() < 0.1 * exact.norm()


def test_without_memory_to_hold_the_weights_they_are_used_as_they_are(tmp_path, monkeypatch):
    student = adapted(tmp_path, torch.float32)
    expected = logits(Decoder(student, 4))
    monkeypatch.setattr(decoding, "free_memory", lambda device: 0)
    monkeypatch.setattr(decoding, "held", None)  # nothing is
    torch.testing.assert_close(logits(Decoder(student, 4)), expected, rtol=1e-4, atol=1e-5)


def test_weights_are_held_in_the_quickest_type_that_fits_into_half_of_the_memory(tmp_path, monkeypatch):
    student, asked = adapted(tmp_path, torch.bfloat16), []
    weights = sum(
        layer.in_features * layer.out_features for layer in student.modules() if hasattr(layer, "in_features")
    )
    monkeypatch.setattr(decoding, "product_type", lambda x: torch.float32)
    monkeypatch.setattr(decoding, "held", lambda layers, dtype: asked.append(dtype))
    for free, wanted in ((8 * weights + 1, torch.float32), (8 * weights, torch.bfloat16), (4 * weights, None)):
        asked.clear()
        monkeypatch.setattr(decoding, "free_memory", lambda device, free=free: free)
        assert Decoder(student, 1).dtype == (wanted or torch.bfloat16)
        assert set(asked) == ({wanted} if wanted else set())


@pytest.mark.parametrize("outputs", [40, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["adapted", "four bits", "linear"])
def test_a_held_layer_is_its_formula(monkeypatch, dtype, kind, outputs):
    """y = x Wᵀ + b + (α/r) x Aᵀ Bᵀ in float64, in one product or two, beside a layer without an adapter and one of
    another rank."""
    monkeypatch.setattr(decoding, "OUTPUTS", outputs)
    layer = nf4_layer(dtype, bias=torch.randn(96))
    a, b = torch.randn(4, 128, dtype=torch.float64), torch.randn(96, 4, dtype=torch.float64)
    w, bias, x = layer.dequantize().double(), layer.bias.double(), torch.randn(2, 3, 128, dtype=dtype)
    expected = x.double() @ w.T + bias
    if kind == "adapted":
        layer = LoRALinear(layer, rank=4, alpha=8, dropout=0.5)
        layer.A.data, layer.B.data = a.float(), b.float()
        expected += 2 * (x.double() @ a.T) @ b.T
    elif kind == "linear":
        layer = torch.nn.Linear(128, 96).to(dtype)
        layer.weight.data, layer.bias.data = w.to(dtype), bias.to(dtype)
    beside = [nf4_layer(dtype), LoRALinear(nf4_layer(dtype), rank=3, alpha=8, dropout=0.0)]  # its B is 0
    torch.nn.init.normal_(beside[1].A)
    for group in ([layer], [beside[1], layer, beside[0]]):
        with torch.inference_mode():
            got = dict(zip(group, held(group, dtype)(x), strict=True))
        assert got[layer].dtype == dtype and got[layer].shape == (2, 3, 96)
        close = 1e-5 if dtype == torch.float32 else 1e-2
        assert (got[layer].double() - expected).norm() < close * expected.norm()
    assert (got[beside[0]].double() - x.double() @ w.T).norm() < close * (x.double() @ w.T).norm()
    torch.testing.assert_close(got[beside[1]], got[beside[0]])


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_that_of_generate_up_to_the_context_s_end(tmp_path, family):
    """Float32, rows of unlike prompts, of which one is cut where the context ends."""
    student = adapted(tmp_path, torch.float32, family, max_position_embeddings=48, sliding_window=None)
    prompts = [[1, *range(5, 5 + n)] for n in (3, 30, 17)]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        how = {"do_sample": False, "eos_token_id": [2], "pad_token_id": 0, "max_new_tokens": min(20, 48 - len(prompt))}
        expected.append(student.generate(ids, attention_mask=torch.ones_like(ids), **how)[0, len(prompt) :].tolist())
    fast.speed_up(student)
    got = dict(sample(student, prompts, range(3), end_ids=[2], temperature=0, max_new_tokens=20))
    assert [got[row].ids for row in range(3)] == [[token for token in ids if token != 2] for ids in expected]
    assert len(got[1].ids) == 17


def test_prompts_that_begin_alike_are_read_once(tmp_path, monkeypatch):
    """x, x̂ and x again are one row of 25 tokens and 1, 4 and 1 more; the other question is one of its own."""
    student, shapes = adapted(tmp_path, torch.float32), []
    original = Decoder._forward
    monkeypatch.setattr(
        Decoder, "_forward", lambda self, ids, *rest: (shapes.append(ids), original(self, ids, *rest))[1]
    )
    with torch.inference_mode():
        Decoder(student, 4).read(PROMPTS, 0)
    assert shapes[0].shape == (2, 31) and shapes[0].count_nonzero() == 31 + 4


def test_alike_is_half_of_the_tokens():
    prompts = [[1, 2, 3, 4], [1, 2, 5, 6], [1, 7, 8, 9], [1, 7], [1, 7, 8, 9, 5]]
    assert alike(range(5), prompts) == [[0, 1], [2, 3, 4]]
    assert alike([0, 2, 1], prompts) == [[0], [2], [1]]


def test_training_goes_on_after_sampling(tmp_path):
    """What is held for a call of `sample` is made anew for the next: an adapter that moved since is seen."""
    student = adapted(tmp_path, torch.float32)
    fast.speed_up(student)

    def answer() -> list[int]:
        how = {"end_ids": [], "temperature": 1.0, "max_new_tokens": 20}
        return next(iter(sample(student, PROMPTS[:1], [0], **how)))[1].ids

    before = answer()
    assert answer() == before
    for layer in lora_layers(student).values():
        layer.B.data.neg_()
    assert answer() != before
