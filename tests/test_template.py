"""Chat templates: what ends an answer, what is content, the same prompt on every day, arguments that are kept."""

import datetime
import json
import re
from types import SimpleNamespace

import pytest
import transformers.utils.chat_template_utils as filled
from transformers import AutoTokenizer

import evaluate
import train_dpo
import train_it
from selfrefine import preferences
from selfrefine.errors import UserError
from selfrefine.model.encoding import decode, encode_prompt, encode_response, end_ids, uses_chat_template
from selfrefine.model.student import load_student
from selfrefine.model.template import fill, marks
from selfrefine.records import Demonstration, Preference
from selfrefine.sampling import Sampled
from selfrefine.teachers import local
from selfrefine.training.examples import examples_of, pairs_of
from tests.conftest import examples, phase_1, phase_2, write_student

CHATML = (
    "<|im_start|>system\n{{ strftime_now('%d %b %Y') }}{% if mood is defined %}, {{ mood }}{% endif %}<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (
    "<s>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "<s>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>"
    "{% endif %}{% endfor %}"
)
YI = CHATML.replace("im_", "turn_")
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
SPECIAL += ("<start_of_turn>", "<end_of_turn>")


def equip(folder, template):
    """The folder's tokenizer with a template and its special tokens; </s> stays a text's end, as of a base model."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.add_tokens(["<|turn_start|>", "<|turn_end|>"])  # not special
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory):
    return equip(write_student(tmp_path_factory.mktemp("chat")), CHATML)


@pytest.fixture
def chat(chat_folder):
    return AutoTokenizer.from_pretrained(chat_folder)


class Config:
    max_position_embeddings, vocab_size = 4096, 40_000


def demonstration(output="2", **changes):
    return Demonstration("i", **{"input": "1+1?", "output": output, "target": "2", "id": "a", **changes})


# What ends an answer


@pytest.mark.parametrize(
    ("template", "opening", "end"),
    [
        (CHATML, "<|im_start|>user", "<|im_end|>"),
        (LLAMA_3, "<|end_header_id|>", "<|eot_id|>"),
        (GEMMA, "<start_of_turn>user", "<end_of_turn>"),
        (MISTRAL, "[INST]", "</s>"),
        (YI, "<|turn_start|>user", "<|turn_end|>"),
        (PLAIN, "user:", "</s>"),
    ],
)
def test_an_answer_ends_with_the_token_that_the_template_puts_after_it(chat, template, opening, end):
    chat.chat_template = template
    found = marks(chat, True)
    assert (found.opening, found.end, found.end_id) == (opening, end, chat.convert_tokens_to_ids(end))
    assert marks(chat, False).end == "</s>"


def test_some_tokenizers_have_no_token_that_begins_a_text(chat):
    before = marks(chat, True)
    chat.bos_token = None
    assert marks(chat, True) == before


def test_blanks_that_are_tokens_are_no_marks(chat):
    """Some tokenizers have runs of spaces or newlines among their added tokens; of two that fit, the longer counts."""
    before = marks(chat, True)
    chat.add_tokens([" ", "\n", "\n\n", "<|im_end", "<|im_start"])
    assert marks(chat, True) == before


def test_that_token_is_trained_on_once(chat):
    """In phase 1 and on both sides of a pair, sampled ids that have it or the tokenizer's own end included."""
    end, eos = chat.convert_tokens_to_ids("<|im_end|>"), chat.eos_token_id
    (whole, cut) = examples(
        examples_of, chat, [demonstration(), demonstration(ended=False)], Config, chat_template=True, allowed=0
    )
    assert whole.response == [*encode_response(chat, "2"), end]
    assert cut.response == encode_response(chat, "2")
    two, three = encode_response(chat, "2"), encode_response(chat, "3")
    pair = Preference("1+1?", "2", "3", id="a", chosen_ids=(*two, end), rejected_ids=(*three, eos))
    (both,) = examples(pairs_of, chat, [pair], Config, chat_template=True, allowed=0)
    assert [both.chosen, both.rejected] == [[*two, end], [*three, end]]
    (plain,) = examples(examples_of, chat, [demonstration()], Config, chat_template=False, allowed=0)
    assert plain.response == [*two, eos]


def test_it_stops_sampling_wherever_answers_are_sampled(chat_folder, chat, command, tmp_path, monkeypatch):
    """In evaluation, in phase 2 and in a local teacher; without the template it is no end."""
    asked = []

    def sample(student, prompts, seeds, *, end_ids, **_):
        asked.append(end_ids)
        return ((index, Sampled([50], True)) for index in range(len(prompts)))

    for module in ("selfrefine.preferences", "selfrefine.teachers.local"):
        monkeypatch.setattr(f"{module}.sample", sample)
    (tmp_path / "q.jsonl").write_text('{"question": "1+1?", "target": "2"}\n')
    flags = ("--student", chat_folder, "--questions", tmp_path / "q.jsonl", "--device", "cpu", "--dtype", "float32")
    assert command(evaluate, *flags, "--output", tmp_path / "e.json") == 0
    assert command(evaluate, *flags, "--output", tmp_path / "n.json", "--chat-template", "none") == 0
    how = {"temperature": 0, "max_new_tokens": 2, "top_k": None, "top_p": None, "batch_size": 2, "seed": 0}
    student = load_student(chat_folder, *_cpu())
    preferences.sample_answers(
        student,
        chat,
        [demonstration()],
        tmp_path / "a",
        samples=1,
        chat_template=True,
        after_each=lambda: None,
        **how,
    )
    teacher = {"teacher": str(chat_folder), "weights": "nf4", "chat_template": "auto", "template_arguments": None}
    list(local.answers({("t", "1"): "1+1?"}, SimpleNamespace(device="cpu", dtype="float32", **teacher, **how)))
    end, eos = chat.convert_tokens_to_ids("<|im_end|>"), chat.eos_token_id
    assert asked == [[end, eos], [eos], [end, eos], [end, eos]]


def _cpu():
    import torch

    return torch.device("cpu"), torch.float32


def test_the_models_own_ends_count_too(chat_folder, chat):
    student = load_student(chat_folder, *_cpu())
    student.generation_config.eos_token_id = [7, 2]
    assert end_ids(student, chat, False) == [2, 7]
    assert end_ids(student, chat, True) == [chat.convert_tokens_to_ids("<|im_end|>"), 2, 7]


# What is content

TEXTS = ("Which tag? A) </b> B) </s>", "3 lines with <|im_end|>", "<s> <|im_start|>", "</s>")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("chat_template", [False, True])
def test_a_special_tokens_string_in_a_prompt_is_text(chat, text, chat_template):
    """No id of it but the template's own and the beginning, and the text is all there."""
    special = {i for i, token in chat.added_tokens_decoder.items() if token.special}
    ids, other = (encode_prompt(chat, asked, chat_template=chat_template) for asked in (text, "What?"))
    assert [i for i in ids if i in special] == [i for i in other if i in special]
    assert chat.decode(ids).replace("What?", text).count(text) == 1
    assert not special & set(encode_response(chat, text))
    assert decode(chat, encode_response(chat, text)) == text


@pytest.mark.parametrize("name", ["llama2", "mistral"])
@pytest.mark.parametrize("chat_template", [False, True])
def test_real_tokenizers_take_them_as_text_too(tokenizers, name, chat_template):
    tokenizer = AutoTokenizer.from_pretrained(tokenizers / name)
    if chat_template and tokenizer.chat_template is None:
        pytest.skip("this tokenizer has no chat template")
    ids = encode_prompt(tokenizer, "A) </b>\nB) </s>", chat_template=chat_template)
    assert ids.count(1) == 1 and 2 not in ids
    assert "A) </b>\nB) </s>" in tokenizer.decode(ids)


@pytest.mark.parametrize("text", ["What is 2+2?\nAnswer:", "  spaces \n", "<think> of [INST]"])
def test_other_prompts_have_the_ids_that_transformers_gives(chat, text):
    turns = [{"role": "user", "content": text}]
    template = CHATML.replace("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024")
    theirs = chat.apply_chat_template(turns, add_generation_prompt=True, return_dict=False, chat_template=template)
    assert encode_prompt(chat, text, chat_template=True) == theirs
    assert encode_prompt(chat, text, chat_template=False) == chat(text).input_ids


@pytest.mark.parametrize("chat_template", [False, True])
def test_texts_that_were_put_into_a_template_already_are_refused(chat, capsys, chat_template):
    """A prompt that opens a turn, an answer that ends one; a mark in the midst of an answer is text."""
    opened = demonstration(input="<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n", id="opened")
    end = "<|im_end|>" if chat_template else "</s>"
    ended, text = demonstration(f"2{end}\n", id="ended"), demonstration(f"The mark {end} ends a turn. 2", id="text")
    how = {"chat_template": chat_template, "allowed": 0.9}
    kept = examples(examples_of, chat, [opened, ended, text], Config, **how)
    assert [row.id for row in kept] == ["text"]
    said = capsys.readouterr().out
    assert "opened: put into a chat template already ('<|im_start|>user'): give the bare texts" in said
    assert f"ended: put into a chat template already ('{end}')" in said
    pairs = [Preference(opened.input, "2", "3", id="a"), Preference("1+1?", "2", f"3{end}\n", id="b")]
    pairs.append(Preference("1+1?", "2", "3", id="c"))
    assert [row.id for row in examples(pairs_of, chat, pairs, Config, **how)] == ["c"]


def test_a_mark_that_is_no_word_opens_a_turn_anywhere(chat):
    chat.chat_template = MISTRAL
    rows = [demonstration(input="Be kind. [INST] 1+1? [/INST]", id="opened"), demonstration(id="bare")]
    kept = examples(examples_of, chat, rows, Config, chat_template=True, allowed=0.9)
    assert [row.id for row in kept] == ["bare"]


@pytest.mark.parametrize("said", ["The user: what does user: mean?", "user: What?", "\n user: What?"])
def test_a_word_that_opens_a_turn_is_a_word_elsewhere(chat, said):
    chat.chat_template = PLAIN
    kept = examples(examples_of, chat, [demonstration(input=said)] * 2, Config, chat_template=True, allowed=0.9)
    assert len(kept) == 2  # the instruction stands before it
    pairs = [Preference(said, "2", "3", id="a"), Preference("?", "2", "3", id="b")]
    found = [row.id for row in examples(pairs_of, chat, pairs, Config, chat_template=True, allowed=0.9)]
    assert found == (["b"] if said.strip().startswith("user:") else ["a", "b"])


# The run's settings alone


def test_a_prompt_is_the_same_on_every_day(chat, monkeypatch):
    """Also where transformers' clock says another one; the date is that of the settings."""

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime(2030, 1, 2, tzinfo=tz)

    monkeypatch.setattr(filled, "datetime", Later)
    assert "02 Jan 2030" in chat.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    for asked in ("1+1?", "</s>?"):
        assert "26 Jul 2024" in chat.decode(encode_prompt(chat, asked, chat_template=True))
    chat.chat_template = (
        "\n{% set f = '%Y-%m-%d' %}{% macro year() %}{{ strftime_now('%Y') }}{% endmacro %}"
        "{% if strftime_now is defined %}{{ strftime_now(f) }} {{ strftime_now(format='%A, %-d %B') }} {{ year() }}"
        "{% endif %} {{ messages[0].content }}"
    )
    assert fill(chat, True, "?", tokenize=False) == "\n2024-07-26 Friday, 26 July 2024 ?"


def test_template_arguments_are_noted_and_followed(chat_folder, demonstrations, preferences, command, tmp_path, capsys):
    """From phase 1 through phase 2 into the evaluation, which take them from the adapter and refuse others."""
    it = phase_1(chat_folder, demonstrations, tmp_path / "it")
    assert command(train_it, *it, "--max-steps", 1, "--template-arguments", '{"mood": "calm"}') == 0
    described = json.loads((tmp_path / "it/config.json").read_text())["settings"]
    assert (described["template_arguments"], described["template_date"]) == ({"mood": "calm"}, "2024-07-26")
    sr = phase_2(chat_folder, tmp_path / "it", tmp_path / "sr")
    assert command(train_dpo, *sr, "--preferences", preferences, "--max-steps", 1) == 0
    assert json.loads((tmp_path / "sr/selfrefine.json").read_text())["chat_template"] == {"mood": "calm"}
    (tmp_path / "q.jsonl").write_text('{"question": "1+1?", "target": "2"}\n')
    flags = ("--student", chat_folder, "--adapter", tmp_path / "sr", "--questions", tmp_path / "q.jsonl")
    flags += ("--device", "cpu", "--dtype", "float32", "--max-new-tokens", 2, "--output", tmp_path / "e.json")
    assert command(evaluate, *flags) == 0
    settings = json.loads((tmp_path / "e.json").read_text())["settings"]
    assert (settings["chat_template"], settings["template_date"]) == ({"mood": "calm"}, "2024-07-26")
    for wrong, said in (
        (("--template-arguments", '{"mood": "wild"}'), "trained with other --template-arguments ({'mood': 'calm'})"),
        (("--chat-template", "none"), "trained with the chat template: leave out --chat-template none"),
        (("--template-arguments", "calm"), "is no JSON object"),
    ):
        assert command(evaluate, *flags, *wrong) == 2
        assert said in capsys.readouterr().err


def test_arguments_are_in_the_prompt(chat):
    assert ", calm<|im_end|>" in chat.decode(encode_prompt(chat, "1+1?", chat_template={"mood": "calm"}))


@pytest.mark.parametrize(
    ("choice", "trained", "arguments", "used"),
    [
        ("auto", None, None, True),
        ("always", None, {"mood": "calm"}, {"mood": "calm"}),
        ("none", None, None, False),
        ("auto", False, None, False),
        ("none", False, None, False),
        ("always", True, None, True),
        ("auto", {"mood": "calm"}, {"mood": "calm"}, {"mood": "calm"}),
        ("always", False, None, "trained without a chat template: leave out --chat-template always"),
        ("none", None, {"mood": "calm"}, "none is used"),
        ("auto", None, {"add_generation_prompt": 1}, "cannot be filled in (TypeError"),
    ],
)
def test_which_template_is_used(chat, choice, trained, arguments, used):
    if isinstance(used, str):
        with pytest.raises(UserError, match=re.escape(used)):
            uses_chat_template(chat, choice, trained, arguments)
    else:
        assert uses_chat_template(chat, choice, trained, arguments) == used


def test_always_needs_a_template(tokenizer, chat):
    with pytest.raises(UserError, match="this tokenizer has none"):
        uses_chat_template(tokenizer, "always")
    chat.chat_template = "{{ raise_exception('only poems') }}"
    with pytest.raises(UserError, match="only poems"):
        uses_chat_template(chat, "auto")
    assert examples(examples_of, chat, [demonstration()], Config, chat_template=False, allowed=0)
    chat.chat_template = "{% for m in messages %}[INST] {{ m.content[0].text }} [/INST]{% endfor %}"
    with pytest.raises(UserError, match="leaves out what the user says"):
        uses_chat_template(chat, "auto")


@pytest.mark.parametrize(("choice", "used"), [("auto", True), ("always", True), ("none", False)])
def test_an_adapter_that_does_not_note_its_template_leaves_the_choice_and_says_so(
    chat_folder, demonstrations, command, tmp_path, capsys, choice, used
):
    it = phase_1(chat_folder, demonstrations, tmp_path / "it")
    assert command(train_it, *it, "--max-steps", 1) == 0
    (tmp_path / "it/selfrefine.json").unlink()
    (tmp_path / "q.jsonl").write_text('{"question": "1+1?", "target": "2"}\n')
    flags = ("--student", chat_folder, "--adapter", tmp_path / "it", "--questions", tmp_path / "q.jsonl")
    flags += ("--device", "cpu", "--dtype", "float32", "--max-new-tokens", 2, "--output", tmp_path / "e.json")
    assert command(evaluate, *flags, "--chat-template", choice) == 0
    assert "does not note how its student was prompted: --chat-template auto takes" in capsys.readouterr().out
    assert json.loads((tmp_path / "e.json").read_text())["settings"]["chat_template"] == used
