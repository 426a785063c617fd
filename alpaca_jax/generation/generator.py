"""Prompts to answers, all of them known beforehand: an engine run until it has nothing left to do."""

from collections.abc import Callable, Sequence

from jax.sharding import Mesh

from alpaca_jax.data.instructions import Record
from alpaca_jax.data.prompt import Template
from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.generation.engine import Engine
from alpaca_jax.generation.requests import Piece
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.model.definition import Definition, Parameters


class Generator:
    """A model ready to answer.

    Args:
      engine: the model.
    """

    def __init__(self, engine: Engine):
        self.engine = engine

    @classmethod
    def of(
        cls,
        definition: Definition,
        parameters: Parameters,
        tokenizer: Tokenizer,
        template: Template,
        mesh: Mesh | None = None,
    ) -> "Generator":
        """One with an engine of its own; see `Engine`."""
        return cls(Engine(definition, parameters, tokenizer, template, mesh))

    def on(self, parameters: Parameters) -> "Generator":
        """The same with other weights of the same shapes, types and shardings; what has been compiled serves both."""
        return Generator(self.engine.on(parameters))

    def answer(
        self, prompts: Sequence[str | Record], sampling: Sampling, advance: Callable[[int], object] = lambda count: None
    ) -> list[str]:
        """The continuation of each prompt, as text, up to the end token or a stop string.

        Args:
          prompts: texts, taken as they are; or records to put into the template: instructions, whose output does not
            count, and chats that end with the user.
          sampling: how tokens are chosen; prompt i's are draw i.
          advance: told the number of prompts finished, as they are.

        Raises:
          UserError: a prompt fills the model's context.
        """
        ids = [self.engine.prompt_ids(prompt) for prompt in prompts]
        pieces = self._run(ids, sampling, 0, advance)
        texts = ["".join(piece.text for piece in of_one) for of_one in pieces]
        pairs = zip(prompts, texts, strict=True)
        return [text if isinstance(prompt, str) else self.engine.template.answer_in(text) for prompt, text in pairs]

    def continuations(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, first_index: int = 0
    ) -> list[list[int]]:
        """Token ids to the ids that follow, the end token left out.

        Args:
          prompts: ids, at least one each.
          sampling: how tokens are chosen.
          first_index: the number of the first prompt, where a longer list is worked through in parts.

        Raises:
          UserError: a prompt is empty, or fills the model's context.
        """
        pieces = self._run(prompts, sampling, first_index)
        return [[token.id for piece in of_one for token in piece.tokens] for of_one in pieces]

    def _run(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        first_index: int,
        advance: Callable[[int], object] = lambda count: None,
    ) -> list[list[Piece]]:
        """The pieces of each prompt's answer; all prompts are looked at before the first is answered."""
        for number, prompt in enumerate(prompts, start=first_index):
            self.engine.check_prompt(prompt, f"prompt {number + 1}")
        pieces: list[list[Piece]] = [[] for _ in prompts]

        def collector(number: int) -> Callable[[Piece], None]:
            def collect(piece: Piece) -> None:
                pieces[number].append(piece)
                if piece.finish_reason:
                    advance(1)

            return collect

        for number, prompt in enumerate(prompts):
            self.engine.submit(prompt, sampling, collector(number), draw=first_index + number)
        while self.engine.step():
            pass
        return pieces
