"""Ask the bare student and its adapted ones a question: their answers at x and x̂ (Tables 2 and 3), side by side."""

import argparse
from pathlib import Path

from selfrefine import command
from selfrefine.tasks.prompts import prompt
from selfrefine.tasks.questions import LETTERS, Question


def main() -> None:
    args = _parse()

    from selfrefine import fast
    from selfrefine.model.adapter import load_adapter, read_settings
    from selfrefine.model.encoding import decode, encode_prompt, end_ids, uses_chat_template
    from selfrefine.model.student import find, fingerprint, load_student, load_tokenizer
    from selfrefine.sampling import row_seed, sample, truncation

    device, dtype = command.machine(args)
    folder = find(args.student)
    tokenizer, student_id = load_tokenizer(folder), fingerprint(folder)
    top_k, top_p = truncation(folder, args.top_k, args.top_p)
    question = Question("ask", "1", args.question, "A" if args.options else "", tuple(args.options))
    trainings = {adapter: read_settings(adapter).chat_template for adapter in map(Path, args.adapter)}
    for adapter, trained in {None: None, **trainings}.items():
        template = uses_chat_template(tokenizer, args.chat_template, trained, args.template_arguments)
        student = load_student(folder, device, dtype)
        if adapter:
            load_adapter(student, adapter, student_id)
        fast.speed_up(student)
        forms = {form: prompt(question, cot=form == "x̂") for form in ("x", "x̂")}
        prompts = [encode_prompt(tokenizer, text, chat_template=template) for text in forms.values()]
        how = {"temperature": args.temperature, "max_new_tokens": args.max_new_tokens, "top_k": top_k, "top_p": top_p}
        seeds, ends = [row_seed(args.seed, form) for form in forms], end_ids(student, tokenizer, template)
        answers = sample(student, prompts, seeds, end_ids=ends, **how)
        for index, answer in sorted(answers, key=lambda one: one[0]):
            cut = "" if answer.ended else f" [cut at {args.max_new_tokens} tokens]"
            print(f"\n--- {adapter or 'bare student'}, {list(forms)[index]}\n{decode(tokenizer, answer.ids)}{cut}")


def _parse() -> argparse.Namespace:
    parser = command.Parser(__doc__)
    command.add_student_flag(parser)
    made_by = "from train_it.py or train_dpo.py"
    parser.add_argument("--adapter", nargs="+", action="extend", default=[], metavar="DIR", help=made_by)
    parser.add_argument("question", nargs="?", help="what to ask")
    parser.add_argument("--options", nargs="+", default=[], metavar="TEXT", help="of a choice; behind the question")
    parser.add_argument("--temperature", type=command.rate, default=0.1, help="C.2")
    command.add_sampling_flags(parser)
    parser.add_argument("--max-new-tokens", type=command.positive, default=512, help="unsaid in the paper")
    command.add_chat_template_flag(parser)
    command.add_machine_flags(parser)
    args = parser.parse_args()
    if args.question is None and args.adapter:
        args.question = args.adapter.pop()  # it stood right behind the folders
    if not args.question:
        parser.error("there is no question")
    if args.options and not 2 <= len(args.options) <= len(LETTERS):
        parser.error(f"--options: a choice has 2 to {len(LETTERS)}")
    return args


if __name__ == "__main__":
    command.run(main)
