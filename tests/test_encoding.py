"""Text to ids: prompt and response apart, one beginning, one end, one prompt for training and sampling."""

from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from selfrefine.errors import UserError
from selfrefine.model.encoding import decode, encode_prompt, encode_response, uses_chat_template
from selfrefine.records import Demonstration, Preference
from selfrefine.training.examples import examples_of, pairs_of, require_most
from tests.conftest import examples

PROMPT = "Answer the following mathematical question with numerical solution.\nQuestion: 1+1?\nAnswer:"


class Config:
    max_position_embeddings, vocab_size = 4096, 40_000


@pytest.fixture(params=["tiny", "llama2", "mistral"])
def each(request, tokenizer):
    if request.param == "tiny":
        return tokenizer
    return AutoTokenizer.from_pretrained(request.getfixturevalue("tokenizers") / request.param)


def demonstration(output="2", **changes):
    row = {"instruction": PROMPT.split("\n")[0], "input": PROMPT.split("\n", 1)[1], "target": "2", "id": "a"}
    return Demonstration(**{**row, "output": output, **changes})


@pytest.mark.parametrize("ending", [":", ": ", "\n", " step by step"])
@pytest.mark.parametrize("response", ["First, 1+1", " a", "42", "(A)", "\n2"])
def test_pitfall_p1_the_prompt_is_the_one_that_is_sampled_from(each, ending, response):
    row = demonstration(response, input=f"Question: 1+1?{ending}")
    (sequence,) = examples(examples_of, each, [row], Config, chat_template=False, allowed=0)
    assert sequence.prompt == encode_prompt(each, f"{row.instruction}\n{row.input}", chat_template=False)
    assert decode(each, sequence.response).strip() == response.strip()


@pytest.mark.parametrize("chat_template", [False, True])
def test_pitfall_p3_one_beginning_and_one_end(each, chat_template):
    if chat_template and each.chat_template is None:
        pytest.skip("this tokenizer has no chat template")
    (sequence,) = examples(examples_of, each, [demonstration()], Config, chat_template=chat_template, allowed=0)
    ids = [*sequence.prompt, *sequence.response]
    assert ids.count(each.bos_token_id) == 1 and ids[0] == each.bos_token_id
    assert ids.count(each.eos_token_id) == 1 and ids[-1] == each.eos_token_id
    assert sequence.response[:-1] == encode_response(each, "2")


def test_a_tokenizer_that_ends_every_text_does_not_end_a_prompt(tokenizer):
    """As some are made; a prompt's own last token stays."""
    from tokenizers import processors

    plain = encode_prompt(tokenizer, PROMPT, chat_template=False)
    ends = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.backend_tokenizer.post_processor = ends
    assert tokenizer(PROMPT).input_ids == [*plain, tokenizer.eos_token_id]
    assert encode_prompt(tokenizer, PROMPT, chat_template=False) == plain
    ends = processors.TemplateProcessing(single="<s> <s> $A", special_tokens=[("<s>", 1)])
    tokenizer.backend_tokenizer.post_processor = ends
    assert encode_prompt(tokenizer, PROMPT, chat_template=False) == plain
    assert encode_prompt(tokenizer, "", chat_template=False) == [tokenizer.bos_token_id]


def test_pitfall_p21_the_llama_2_turn_is_the_published_one(tokenizers):
    """[INST] prompt [/INST] after one <s>: the ids of the plain string with the tokenizer's own beginning."""
    llama = AutoTokenizer.from_pretrained(tokenizers / "llama2")
    assert encode_prompt(llama, PROMPT, chat_template=True) == llama(f"[INST] {PROMPT} [/INST]").input_ids


def test_the_chat_template_is_as_the_adapter_was_trained(tokenizers, tokenizer):
    llama = AutoTokenizer.from_pretrained(tokenizers / "llama2")
    assert uses_chat_template(llama, "auto") and not uses_chat_template(llama, "none")
    assert not uses_chat_template(tokenizer, "auto")
    assert not uses_chat_template(llama, "auto", trained=False)
    assert uses_chat_template(llama, "auto", trained=True)
    with pytest.raises(UserError, match="--chat-template"):
        uses_chat_template(llama, "none", trained=True)
    with pytest.raises(UserError, match="the adapter was trained with the chat template"):
        uses_chat_template(tokenizer, "auto", trained=True)


def test_sampled_ids_are_scored_as_they_were_drawn(tokenizer):
    """Ids that decode to the text win over tokenising it again; those of another tokenizer do not."""
    ids = tuple(encode_response(tokenizer, "so 2"))
    pair = Preference(PROMPT, "so 2", "3", chosen_ids=ids, rejected_ids=(9, 9, 9), rejected_ended=False, id="a")
    (sequence,) = examples(pairs_of, tokenizer, [pair], Config, chat_template=False, allowed=0)
    chosen, rejected = sequence.chosen, sequence.rejected
    assert chosen == [*ids, tokenizer.eos_token_id]
    assert rejected == encode_response(tokenizer, "3")  # not the foreign ids, and cut: no end


def test_a_token_that_both_begins_and_ends_texts_stays_at_the_beginning():
    class Both:
        bos_token_id = eos_token_id = 1

        def __call__(self, text, **_):
            return SimpleNamespace(input_ids=[1, *text.encode()])

    assert encode_prompt(Both(), "", chat_template=False) == [1]
    assert encode_prompt(Both(), "ab", chat_template=False) == [1, 97, 98]


@pytest.mark.parametrize(("count", "more"), [(1, False), (5, False), (6, True)])
def test_what_is_left_out_is_counted_and_the_first_five_named(capsys, count, more):
    problems = [f"row {n}" for n in range(count)]
    require_most(2 * count, problems, 0.5, "rows")
    named = "; ".join(problems[:5]) + ("; ..." if more else "")
    assert capsys.readouterr().out == f"warning: {count} of {2 * count} rows left out ({named})\n"
    with pytest.raises(UserError, match=r"more than --max-dropped 0.4 allows; mend the rows or raise it"):
        require_most(2 * count, problems, 0.4, "rows")


def test_an_id_beyond_the_vocabulary_is_not_scored(tokenizer, capsys):
    """It decodes to nothing, so that the text alone would not tell."""
    ids = (*encode_response(tokenizer, "2"), len(tokenizer))
    pair = Preference(PROMPT, "2", "3", chosen_ids=ids, id="a")
    (sequence,) = examples(pairs_of, tokenizer, [pair], Config, chat_template=False, allowed=0)
    assert sequence.chosen == [*ids[:-1], tokenizer.eos_token_id]
    assert capsys.readouterr().out == ""  # nothing was left out


def test_ids_that_end_already_get_no_second_end(tokenizer):
    ids = (*encode_response(tokenizer, "2"), tokenizer.eos_token_id)
    pair = Preference(PROMPT, "2", "3", chosen_ids=ids, id="a")
    (sequence,) = examples(pairs_of, tokenizer, [pair], Config, chat_template=False, allowed=0)
    assert sequence.chosen == list(ids)


def test_pairs_of_equal_sides_or_beyond_the_context_are_left_out(tokenizer, capsys):
    pairs = [Preference(PROMPT, "2", "2", id="a"), Preference(PROMPT, "2", "3", id="b")]
    pairs.append(Preference(PROMPT, "2", "x" * 5000, id="long"))
    rows = examples(pairs_of, tokenizer, pairs, Config, chat_template=False, allowed=0.4)
    assert [row.id for row in rows] == ["b"]
    said = capsys.readouterr().out
    assert "1 pairs whose sides are the same" in said and "1 of 3 pairs left out (long: " in said and "context" in said


@pytest.mark.parametrize(("output", "why"), [("", "empty"), (" \n", "empty"), ("x" * 5000, "context")])
def test_pitfall_p2_rows_that_cannot_be_used_are_counted_and_named(tokenizer, capsys, output, why):
    rows = [demonstration(id=str(i)) for i in range(3)] + [demonstration(output, id="bad")]
    kept = examples(examples_of, tokenizer, rows, Config, chat_template=False, allowed=0.3)
    assert [row.id for row in kept] == ["0", "1", "2"]
    said = capsys.readouterr().out
    assert "1 of 4" in said and "bad" in said and why in said
    with pytest.raises(UserError, match="--max-dropped"):
        examples(examples_of, tokenizer, rows, Config, chat_template=False, allowed=0.2)


def test_ids_beyond_the_vocabulary_are_refused(tokenizer):
    """And rows beyond the context: the last id and the last place are taken yet."""
    (row,) = examples(examples_of, tokenizer, [demonstration()], Config, chat_template=False, allowed=0)
    vocabulary, context = max(row.prompt + row.response) + 1, len(row.prompt + row.response)

    class Exact(Config):
        vocab_size, max_position_embeddings = vocabulary, context

    assert examples(examples_of, tokenizer, [demonstration()], Exact, chat_template=False, allowed=0) == [row]
    for name, value, said in (
        ("vocab_size", vocabulary, "vocabulary"),
        ("max_position_embeddings", context, "context"),
    ):
        small = type("Small", (Exact,), {name: value - 1})
        with pytest.raises(UserError, match=said):
            examples(examples_of, tokenizer, [demonstration()], small, chat_template=False, allowed=0)


def test_a_demonstration_that_was_cut_gets_no_end(tokenizer):
    (whole, cut) = examples(
        examples_of, tokenizer, [demonstration(), demonstration(ended=False)], Config, chat_template=False, allowed=0
    )
    assert whole.response == [*cut.response, tokenizer.eos_token_id]
