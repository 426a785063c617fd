"""A chat in the terminal: a person's lines to answers that are written as they come."""

from collections.abc import Callable

from alpaca_jax.data.instructions import Conversation, Message
from alpaca_jax.generation.engine import Engine
from alpaca_jax.generation.requests import Piece
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.support.errors import UserError

_TOLD = "(the conversation has outgrown the model's context: its oldest turn is left out)\n"


class Chat:
    """One conversation with a model.

    Args:
      engine: the model, idle.
      sampling: how its answers are made; the n-th one is draw n.
      write: takes text to show.
    """

    def __init__(self, engine: Engine, sampling: Sampling, write: Callable[[str], object]):
        self._engine, self._sampling, self._write = engine, sampling, write
        self._turns: list[Message] = []
        self._answers = 0

    def say(self, text: str) -> str:
        """Asks, writes the answer as it comes, and returns it; Ctrl-C ends the answer early, and it counts as it is.

        Raises:
          UserError: this message alone fills the context; the conversation is as it was.
        """
        asked = [*self._turns, Message("user", text)]
        ids = self._engine.prompt_ids(Conversation(tuple(asked)))
        while len(ids) >= self._engine.context and len(asked) > 1:
            asked = asked[2:]
            ids = self._engine.prompt_ids(Conversation(tuple(asked)))
        self._engine.check_prompt(ids, "message")
        if left_out := (len(self._turns) + 1 - len(asked)) // 2:
            self._write(_TOLD * left_out)
        answer = self._engine.template.answer_in(self._answer(ids))
        self._turns = [*asked, Message("assistant", answer)]
        return answer

    def _answer(self, ids: list[int]) -> str:
        texts: list[str] = []

        def on_piece(piece: Piece) -> None:
            # The space that a template puts before an answer is not the writer's.
            self._write(piece.text if "".join(texts).strip() else piece.text.lstrip())
            texts.append(piece.text)

        request = self._engine.submit(ids, self._sampling, on_piece, draw=self._answers)
        self._answers += 1
        try:
            while self._engine.step():
                pass
        except KeyboardInterrupt:
            request.cancel()
            while self._engine.step():
                pass
        self._write("\n")
        return "".join(texts)


def converse(engine: Engine, sampling: Sampling, read: Callable[[], str], write: Callable[[str], object]) -> None:
    """A chat until there is nothing more to read, or until Ctrl-C where no answer is under way.

    Args:
      engine: the model.
      sampling: how its answers are made.
      read: gives what the person says; raises EOFError where they are done.
      write: takes text to show.
    """
    chat = Chat(engine, sampling, write)
    while True:
        try:
            said = read().strip()
        except (EOFError, KeyboardInterrupt):
            write("\n")
            return
        if not said:
            continue
        try:
            chat.say(said)
        except UserError as error:
            write(f"{error}\n")
