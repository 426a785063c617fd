"""The demo's page: what stands where, and what happens when a question is sent."""

import json
import secrets
import uuid
from collections.abc import AsyncIterator

import gradio as gr

from alpaca_jax.data.instructions import Instruction
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.serving.demo_panel import PLAIN, Panel, Updates
from alpaca_jax.serving.demo_text import EXAMPLES, NOTICE, TAGLINE, TERMS, TITLE
from alpaca_jax.serving.demo_visits import Visits
from alpaca_jax.serving.feedback import Answered, Feedback
from alpaca_jax.support.errors import UserError

_LONGEST_QUESTION = 20_000  # characters; more than a model's context holds
_MOST_TOKENS = 2_048  # where the slider for the longest answer ends, unless the models or the server allow less
_MOST_SEEDS = 2**32
_DEFAULTS = Sampling()
_DECODING = ("temperature", "top_p", "max_new_tokens", "seed")  # what a visitor sets of it

_SWITCH_COLOURS = """() => {
    const dark = document.body.classList.toggle("dark");
    localStorage.setItem("alpaca_jax_colours", dark ? "dark" : "light");
}"""


class Page:
    """The page, in Gradio's terms.

    Args:
      visits: what asks the models.
      feedback: where votes and flags go.

    Attributes:
      blocks: to be mounted.
    """

    def __init__(self, visits: Visits, feedback: Feedback):
        self._visits = visits
        with gr.Blocks(title=TITLE, analytics_enabled=False) as self.blocks:
            with gr.Row(elem_id="head"):
                gr.HTML(f"<div class='name'><h1>{TITLE}</h1><p>{TAGLINE}</p></div>", elem_id="name")
                colours = gr.Button("Light or dark", size="sm", min_width=0, elem_id="colours")
            gr.HTML(f"<p>{NOTICE}</p>", elem_id="notice")
            with gr.Column(elem_id="question"):
                self._fields = [*_question_fields(), *_decoding_fields(min(_MOST_TOKENS, visits.most_tokens))]
                with gr.Row(elem_id="buttons"):
                    self._send = gr.Button("Send", variant="primary", elem_id="send")
                    self._stop = gr.Button("Stop", interactive=False, elem_id="stop")
            with gr.Row(elem_id="answers"):
                self._panels = [Panel(model, feedback) for model in visits.service.models]
            with gr.Accordion("Terms of use", open=False, elem_id="terms"):
                gr.Markdown(TERMS)
            colours.click(None, js=_SWITCH_COLOURS, **PLAIN)
            self._listen()
        self.blocks.queue(max_size=256, default_concurrency_limit=None)

    def _listen(self) -> None:
        outputs = [self._send, self._stop, *(output for panel in self._panels for output in panel.outputs)]
        self._send.click(self._ask, self._fields, outputs, **PLAIN)
        self._stop.click(self._end, **PLAIN)
        self.blocks.unload(self._end)

    async def _ask(
        self,
        request: gr.Request,
        instruction: str,
        material: str,
        temperature: float | None,
        top_p: float | None,
        most: float | None,
        seed: float | None,
    ) -> AsyncIterator[Updates]:
        updates: Updates = {}
        for panel in self._panels:
            updates |= panel.emptied()
        yield updates | self._buttons(busy=True)
        try:
            record, sampling = _record(instruction, material), self._sampling(temperature, top_p, most, seed)
        except UserError as error:
            for panel in self._panels:
                yield panel.refused(str(error).removeprefix("--"))
        else:
            async for updates in self._answer(request.session_hash or "", record, sampling):
                yield updates
        yield self._buttons(busy=False)

    async def _answer(self, visitor: str, record: Instruction, sampling: Sampling) -> AsyncIterator[Updates]:
        async for answers in self._visits.ask(visitor, record, sampling):
            updates: Updates = {}
            for panel in self._panels:
                updates |= panel.grown(answers[panel.model])
            yield updates
        updates = {}
        for panel in self._panels:
            progress = answers[panel.model]
            updates |= panel.finished(
                Answered(
                    id=uuid.uuid4().hex,
                    model=panel.model,
                    checkpoint=self._visits.service.models[panel.model].checkpoint,
                    instruction=record.instruction,
                    input=record.input,
                    answer=progress.text,
                    finish_reason=progress.ending or "refused",
                    parameters={name: getattr(sampling, name) for name in _DECODING},
                )
            )
        yield updates

    async def _end(self, request: gr.Request) -> None:
        self._visits.stop(request.session_hash or "")

    def _sampling(
        self, temperature: float | None, top_p: float | None, most: float | None, seed: float | None
    ) -> Sampling:
        if temperature is None or top_p is None or most is None:  # a field that was emptied
            raise UserError("Decoding", expected="a number in each field", found="an empty one", remedy="fill it in")
        return Sampling(
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=min(int(most), self._visits.most_tokens),
            seed=secrets.randbelow(_MOST_SEEDS) if seed is None else int(seed),
        )

    def _buttons(self, busy: bool) -> Updates:
        return {self._send: gr.Button(interactive=not busy), self._stop: gr.Button(interactive=busy)}


def _question_fields() -> list[gr.Textbox]:
    instruction = gr.Textbox(
        label="Instruction",
        placeholder="Ask a question, or say what to do",
        lines=3,
        max_lines=12,
        max_length=_LONGEST_QUESTION,
        autofocus=True,
        elem_id="instruction",
    )
    material = gr.Textbox(
        label="Input (optional)",
        placeholder="A text or a list that the instruction is about",
        lines=2,
        max_lines=12,
        max_length=_LONGEST_QUESTION,
        elem_id="input",
    )
    with gr.Row(elem_id="examples"):
        gr.HTML("Try", elem_id="try")
        for name, *texts in EXAMPLES:
            chip = gr.Button(name, size="sm", min_width=0, elem_classes="chip")
            # In the browser alone: nothing of it is the server's business.
            chip.click(None, None, [instruction, material], js=f"() => {json.dumps(texts)}", **PLAIN)
    return [instruction, material]


def _decoding_fields(most_tokens: int) -> list[gr.components.Component]:
    with gr.Accordion("How the answer is drawn", open=False, elem_id="decoding"):
        with gr.Row():
            temperature = gr.Slider(
                0, 2, _DEFAULTS.temperature, step=0.05, label="Temperature", info="0 always takes the likeliest word"
            )
            top_p = gr.Slider(
                0.05, 1, _DEFAULTS.top_p, step=0.05, label="Top-p", info="How much of the likelihood is drawn from"
            )
        with gr.Row():
            most = gr.Slider(
                1,
                most_tokens,
                min(_DEFAULTS.max_new_tokens, most_tokens),
                step=1,
                label="Longest answer",
                info="In tokens; three make about two words",
            )
            seed = gr.Number(
                None, precision=0, label="Seed", info="The same number draws the same answer; empty draws a new one"
            )
    return [temperature, top_p, most, seed]


def _record(instruction: str, material: str) -> Instruction:
    # A browser can send half of a surrogate pair, which no tokenizer takes.
    instruction, material = (text.encode("utf-8", "replace").decode().strip() for text in (instruction, material))
    if not instruction:
        raise UserError("Instruction", expected="a question or a task", found="nothing", remedy="write one first")
    return Instruction(instruction, material, "")
