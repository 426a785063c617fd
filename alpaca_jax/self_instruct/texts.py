"""What is asked of the model, in words of our own: the only texts that are sent."""

import json
from collections.abc import Sequence
from typing import Any

from alpaca_jax.data.instructions import Instruction

TASKS = 20  # that a prompt numbers, its examples included
NO_INPUT = "<noinput>"
SEPARATOR = "###"

_BRIEF = """\
Write {count} varied tasks for an assistant that reads text and answers with text. They will be used to find out how \
well such an assistant follows instructions.

What the tasks must be like:
1. Each asks for something else, and no verb opens more than one or two of them.
2. They differ in wording: some are questions, some are commands, some are longer requests.
3. They differ in kind: open questions, writing, explaining, classifying, rewriting, extracting, planning, reasoning, \
arithmetic, programming, and what else you can think of.
4. The assistant has only text. No task asks it to show, hear, open, send or remember anything, or to act in the world.
5. Instructions, inputs and outputs are in {language}.
6. An instruction is one or two sentences long.
7. An input gives the material that its instruction needs: concrete and realistic, never a mere placeholder, and at \
most 100 words. Where the instruction says all there is to say, {no_input}.
8. The output is a good and complete answer to the instruction with its input, of at most 100 words where possible.\
"""
_DOMAIN = "\n9. All tasks are from this field: {domain}"
_TOPIC = "\n{number}. These tasks are about: {topic}"

_JSON = """

Examples of such tasks:
{examples}

Write {count} new ones, as a JSON object {{"tasks": [{{"instruction": …, "input": …, "output": …}}, …]}} and nothing \
else."""
_NUMBERED = """

Write each task in the form of those that stand here, and {separator} between two tasks.

"""
_CONTINUE = "\n\nGo on with task {first}, in this form, up to task {last}. Write the tasks and nothing else."

TASKS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "tasks": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("instruction", "input", "output")},
                "required": ["instruction", "input", "output"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["tasks"],
    "additionalProperties": False,
}
SCORE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"score": {"type": "integer"}},
    "required": ["score"],
    "additionalProperties": False,
}


def one_line(instruction: str) -> str:
    """An instruction as an example shows it: white space collapsed, a colon at the end dropped."""
    return " ".join(instruction.split()).rstrip(":").rstrip()


def numbered_task(number: int, task: Instruction) -> str:
    """A task in the numbered form.

    >>> print(numbered_task(2, Instruction("Add  these:", "", "3")))
    2. Instruction: Add these
    2. Input:
    <noinput>
    2. Output:
    3
    """
    material = task.input.strip() or NO_INPUT
    head = f"{number}. Instruction: {one_line(task.instruction)}"
    return f"{head}\n{number}. Input:\n{material}\n{number}. Output:\n{task.output.strip()}"


def _brief(count: int, no_input: str, domain: str, topic: str, language: str) -> str:
    text = _BRIEF.format(count=count, language=language, no_input=no_input)
    if domain:
        text += _DOMAIN.format(domain=domain)
    if topic:
        text += _TOPIC.format(number=10 if domain else 9, topic=topic)
    return text


def numbered_request(
    examples: Sequence[Instruction], domain: str, topic: str, language: str, *, continued: bool
) -> tuple[str, tuple[str, ...]]:
    """The request for tasks in the numbered form.

    Args:
      examples: the tasks that the numbers begin with.
      domain, topic: what the tasks are about, or empty.
      language: the name of a language.
      continued: whether the model continues the text, which then ends within a task, or answers it.

    Returns:
      The text, and where the answer is to stop: at the beginning of a line, lest a year in an answer end it.
    """
    text = _brief(TASKS, f"write {NO_INPUT}", domain, topic, language) + _NUMBERED.format(separator=SEPARATOR)
    text += f"\n{SEPARATOR}\n".join(numbered_task(number, task) for number, task in enumerate(examples, start=1))
    first = len(examples) + 1
    if continued:
        text += f"\n{SEPARATOR}\n{first}. Instruction:"
    else:
        text += _CONTINUE.format(first=first, last=TASKS)
    return text, (f"\n{TASKS + 1}. Instruction:",)


def json_request(examples: Sequence[Instruction], domain: str, topic: str, language: str) -> str:
    """The request for the same number of new tasks as JSON after `TASKS_SCHEMA`."""
    count = TASKS - len(examples)
    shown = {
        "tasks": [
            {"instruction": one_line(task.instruction), "input": task.input.strip(), "output": task.output.strip()}
            for task in examples
        ]
    }
    text = _brief(count, "leave it empty", domain, topic, language)
    return text + _JSON.format(examples=json.dumps(shown, ensure_ascii=False), count=count)


_INSTRUCTIONS = """\
Here is a list of tasks for an assistant that reads and answers text. Go on with the list up to number {last}: \
{language}, one task a line, each of another kind than those before it, none that needs pictures or sound.{about}

"""
_KIND = """\
A classification task has a small, fixed set of answers, of which one is right. Is the last task one? Answer yes or no.

"""
_INPUT_FIRST = """\
Invent one or two examples for the last task, as the earlier ones have them. Each example is an Input, with all the \
material that the task needs, and the Output that is right for it. Where the task needs no material, write {no_input} \
as the Input. Everything is in {language}.

"""
_OUTPUT_FIRST = """\
For the last task, which is a classification, invent an example of each possible answer, as the earlier ones have \
them: first the Output, which is the answer, then an Input for which it is the right one. Where the task says all, \
write {no_input} as the Input. Everything is in {language}.

"""


def instructions_request(instructions: Sequence[str], domain: str, topic: str, language: str) -> str:
    """The request for as many new instructions as there are examples."""
    about = "".join(f" They are about: {subject}." for subject in (domain, topic) if subject)
    text = _INSTRUCTIONS.format(last=2 * len(instructions), language=f"in {language}", about=about)
    lines = [f"{number}. {one_line(instruction)}" for number, instruction in enumerate(instructions, start=1)]
    return text + "\n".join(lines) + f"\n{len(lines) + 1}."


def kind_request(examples: Sequence[tuple[str, bool]], instruction: str) -> str:
    """The question whether an instruction asks for a classification, after examples with their answers."""
    shown = [f"Task: {one_line(text)}\nClassification: {'yes' if kind else 'no'}\n" for text, kind in examples]
    return _KIND + "\n".join([*shown, f"Task: {one_line(instruction)}\nClassification:"])


def instances_request(examples: Sequence[Instruction], instruction: str, language: str, *, output_first: bool) -> str:
    """The request for instances of an instruction, after examples in the same order of input and output."""
    text = (_OUTPUT_FIRST if output_first else _INPUT_FIRST).format(no_input=NO_INPUT, language=language)
    for example in examples:
        fields = [("Input", example.input.strip() or NO_INPUT), ("Output", example.output.strip())]
        body = "\n".join(f"{name}: {value}" for name, value in (fields[::-1] if output_first else fields))
        text += f"Task: {one_line(example.instruction)}\n{body}\n{SEPARATOR}\n"
    return text + f"Task: {one_line(instruction)}\n"


_JUDGE = """\
Give this example of an instruction, its input and an answer a score from 1 to 10. 10: the instruction is clear and \
can be carried out with text alone, and the answer is right, complete and to the point. 5: the answer is of some use, \
with faults. 1: the instruction makes no sense, or the answer is wrong. {how}

Instruction: {instruction}
Input: {input}
Answer: {output}\
"""


def judge_request(task: Instruction, *, structured: bool) -> str:
    """The request for a score of a record, as JSON after `SCORE_SCHEMA` or as a number."""
    how = 'Answer with a JSON object {"score": …}.' if structured else "Answer with the number alone."
    material = task.input or "(none)"
    return _JUDGE.format(how=how, instruction=task.instruction, input=material, output=task.output)
