"""The part of the demo's page that holds one model's answer, and what a visitor may say about it."""

import html
import json
from typing import Any, Literal

import gradio as gr

from alpaca_jax.serving.demo_text import ENDINGS
from alpaca_jax.serving.demo_visits import Progress
from alpaca_jax.serving.feedback import LONGEST_DETAIL, REASONS, Answered, Feedback, FeedbackRefused

# What every event of the page has: it is no API, and the page shows by itself what goes on.
PLAIN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

Updates = dict[Any, Any]  # what Gradio takes from a function: components, and what becomes of them


class Panel:
    """One model's column; made within the page, where it is to stand.

    Args:
      model: the model's name.
      feedback: where votes and flags go.
    """

    def __init__(self, model: str, feedback: Feedback):
        self.model, self._feedback = model, feedback
        # Kept on the server: what a vote is about is not for the browser to say.
        self._answered = gr.State(None, time_to_live=6 * 3600)
        with gr.Column(min_width=300):
            # A field for plain text: nothing in an answer is ever read as HTML or Markdown. Gradio's own button for
            # copying would stand first in the field's label, which would then name the button and not the field.
            self._text = gr.Textbox(label=model, lines=7, max_lines=28, interactive=False, elem_classes="answer")
            self._status = gr.HTML(elem_classes="status")
            with gr.Row(visible=False, elem_classes="opinions") as self._opinions:
                self._up = gr.Button("Good", size="sm", min_width=0, elem_classes="up")
                self._down = gr.Button("Bad", size="sm", min_width=0, elem_classes="down")
                self._flag = gr.Button("Flag", size="sm", min_width=0, elem_classes="flag")
                self._copy = gr.Button("Copy", size="sm", min_width=0, elem_classes="copy")
            with gr.Column(visible=False, elem_classes="complaint") as self._form:
                self._reason = gr.Radio(
                    [(text, name) for name, text in REASONS.items()], label="What is wrong with it?"
                )
                self._detail = gr.Textbox(label="In your own words (optional)", lines=2, max_length=LONGEST_DETAIL)
                with gr.Row():
                    self._report = gr.Button("Send the flag", size="sm", variant="primary", min_width=0)
                    self._cancel = gr.Button("Cancel", size="sm", min_width=0)
        self._listen()

    @property
    def outputs(self) -> list[Any]:
        """The components that `emptied` and `grown` change."""
        return [self._text, self._status, self._opinions, self._form, self._answered]

    def emptied(self) -> Updates:
        """The panel before the first token."""
        return {
            self._text: "",
            self._status: _status("thinking …", "busy"),
            self._opinions: gr.Row(visible=False),
            self._form: gr.Column(visible=False),
            self._answered: None,
        }

    def grown(self, progress: Progress) -> Updates:
        """The panel with what has come."""
        words = [f"{progress.tokens} token{'s' * (progress.tokens != 1)}", f"{progress.seconds:.1f} s"]
        if progress.seconds > 0 and progress.tokens > 1:
            words.append(f"{progress.tokens / progress.seconds:.1f} tokens/s")
        if progress.ending:
            words.append(ENDINGS[progress.ending])
        status = _status(progress.refusal, "refusal") if progress.refusal else _status(" · ".join(words))
        return {self._text: progress.text, self._status: status}

    def finished(self, answered: Answered) -> Updates:
        """The panel's buttons for an answer that is over."""
        return {self._opinions: gr.Row(visible=bool(answered.answer)), self._answered: answered}

    def refused(self, reason: str) -> Updates:
        """The panel when nothing was asked."""
        return {self._status: _status(reason, "refusal")}

    def _listen(self) -> None:
        self._up.click(lambda answered: self._vote(answered, "up"), self._answered, self._status, **PLAIN)
        self._down.click(lambda answered: self._vote(answered, "down"), self._answered, self._status, **PLAIN)
        self._flag.click(lambda: gr.Column(visible=True), None, self._form, **PLAIN)
        self._copy.click(None, self._text, self._status, js=_COPY, **PLAIN)
        self._cancel.click(lambda: gr.Column(visible=False), None, self._form, **PLAIN)
        fields = [self._answered, self._reason, self._detail]
        self._report.click(self._send_flag, fields, [self._status, self._form, self._reason, self._detail], **PLAIN)

    def _vote(self, answered: Answered | None, value: Literal["up", "down"]) -> str:
        try:
            if answered is None:
                raise FeedbackRefused("Please ask something first.")
            self._feedback.vote(answered, value)
        except FeedbackRefused as refused:
            return _status(str(refused), "refusal")
        return _status("Thank you: your vote is saved.", "thanks")

    def _send_flag(self, answered: Answered | None, reason: str | None, detail: str) -> Updates:
        try:
            if answered is None:
                raise FeedbackRefused("Please ask something first.")
            self._feedback.flag(answered, reason or "", detail)
        except FeedbackRefused as refused:
            return {self._status: _status(str(refused), "refusal")}
        return {
            self._status: _status("Thank you: the flag is saved.", "thanks"),
            self._form: gr.Column(visible=False),
            self._reason: None,
            self._detail: "",
        }


def _status(words: str, kind: str = "plain") -> str:
    return f"<span class='{kind}' role='status'>{html.escape(words)}</span>"


# A browser has a clipboard for pages over HTTPS or from its own machine alone.
_COPY = f"""async (text) => {{
    if (!navigator.clipboard) return [{json.dumps(_status("Your browser does not let this page copy.", "refusal"))}];
    await navigator.clipboard.writeText(text);
    return [{json.dumps(_status("Copied."))}];
}}"""
