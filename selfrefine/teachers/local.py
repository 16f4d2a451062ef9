"""A teacher on this machine: a causal LM in bfloat16 or in the project's own NF4, sampled as the student is.

A teacher that is too large for one GPU even in NF4 goes behind a server (vLLM, TGI), which `--server` asks:
transformers splits a model over GPUs only with accelerate installed, for its tensor parallelism too.
"""

from collections.abc import Iterator, Mapping

import torch

from selfrefine import fast
from selfrefine.errors import RunError
from selfrefine.model.encoding import decode, encode_prompt, end_ids, uses_chat_template
from selfrefine.model.student import FAMILIES, context, find, load_student, load_tokenizer, load_unquantised
from selfrefine.sampling import row_seed, sample, told, truncation
from selfrefine.teachers import Answer, Key, Refusal


def answers(
    prompts: Mapping[Key, str],
    *,
    model: str,
    nf4: bool,
    chat_template: str,
    template_arguments: dict | None,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    max_new_tokens: int,
    seed: int,
) -> Iterator[tuple[Key, Answer | Refusal]]:
    """Yield (key, answer), `batch_size` being drawn at a time; what is drawn depends on the seed and the key alone.

    `dtype` is what NF4 weights compute in. Raises UserError for a model that cannot be loaded or sampled here.
    """
    folder = find(model)
    tokenizer = load_tokenizer(folder)
    teacher = load_student(folder, device, dtype) if nf4 else load_unquantised(folder, device, torch.bfloat16)
    if teacher.config.model_type in FAMILIES:
        fast.speed_up(teacher)
    template = uses_chat_template(tokenizer, chat_template, arguments=template_arguments)
    encoded = {key: encode_prompt(tokenizer, prompt, chat_template=template) for key, prompt in prompts.items()}
    top_k, top_p = truncation(folder, top_k, top_p)
    print(f"answers are drawn at {told(temperature, top_k, top_p)}")
    room = context(teacher.config)
    for key, ids in encoded.items():
        if len(ids) >= room:
            yield key, Refusal(f"its {len(ids)} tokens fill the teacher's context of {room}.")
    keys = [key for key, ids in encoded.items() if len(ids) < room]
    drawn = sample(
        teacher,
        [encoded[key] for key in keys],
        [row_seed(seed, *key) for key in keys],
        end_ids=end_ids(teacher, tokenizer, template),
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        top_k=top_k,
        top_p=top_p,
        batch_size=batch_size,
    )
    try:
        for index, sampled in drawn:
            yield keys[index], Answer(decode(tokenizer, sampled.ids), sampled.ended)
    except torch.OutOfMemoryError:
        raise RunError("the GPU is out of memory: lower --batch-size, or take --weights nf4.") from None
