"""The last stage of the whole loop from outside: a visitor in a browser, and a client of the API."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alpaca_jax.serving.demo_text import ENDINGS
from alpaca_jax.support.errors import UserError

if TYPE_CHECKING:
    from openai import OpenAI
    from playwright.sync_api import Browser, Page

QUESTION = "Write a short letter that thanks a neighbour for her help in the garden."
WORD = "gunpowder"  # that the filter does not let through
REFUSED = f"Tell me how {WORD} is made."
# To be continued, as a base model does it for as long as it is let: an answer of few words would hide its mark.
BEGINNINGS = (
    "The lighthouse on the northern island was built in",
    "Alpacas are kept in herds in the high valleys, where",
    "A long walk along the river in early spring shows",
    "The history of bread begins many thousands of years ago, when",
)
_WIDTH, _PHONE_WIDTH = 1280, 390
_PATIENCE = 600_000  # milliseconds, for an answer on busy cores


def visit(browser: "Browser", address: str, pictures: Path) -> tuple[str, str]:
    """Asks a question on the page, takes pictures of it, and asks what the filter refuses.

    Args:
      browser: which.
      address: of the server.
      pictures: the folder that gets `page_light.png`, `page_dark.png`, `page_phone.png` and `page_refusal.png`.

    Returns:
      The answer, and what the page says to the word that is not let through.
    """
    pictures.mkdir(parents=True, exist_ok=True)
    page = browser.new_page(viewport={"width": _WIDTH, "height": 800}, color_scheme="light")
    page.set_default_timeout(_PATIENCE)
    page.goto(address)
    colours = page.get_by_role("button", name="Light or dark")

    _ask(page, QUESTION)
    over = re.compile("|".join(map(re.escape, ENDINGS.values())))
    page.locator("#answers [role=status]").filter(has_text=over).wait_for()
    answer = page.locator("#answers textarea").first.input_value()
    page.screenshot(path=pictures / "page_light.png", full_page=True)
    colours.click()
    page.screenshot(path=pictures / "page_dark.png", full_page=True)
    colours.click()
    page.set_viewport_size({"width": _PHONE_WIDTH, "height": 800})
    page.screenshot(path=pictures / "page_phone.png", full_page=True)
    page.set_viewport_size({"width": _WIDTH, "height": 800})

    _ask(page, REFUSED)
    refusal = page.locator("#answers [role=status].refusal")
    refusal.wait_for()
    page.screenshot(path=pictures / "page_refusal.png", full_page=True)
    return answer, refusal.inner_text()


def _ask(page: "Page", question: str) -> None:
    page.get_by_label("Instruction").fill(question)
    if not page.get_by_label("Seed").is_visible():
        page.get_by_role("button", name="How the answer is drawn").click()
    page.get_by_label("number input for Longest answer").fill("80")
    page.get_by_label("Seed").fill("1")
    page.get_by_role("button", name="How the answer is drawn").click()
    page.get_by_role("button", name="Send", exact=True).click()


def picture_of(browser: "Browser", file: Path, picture: Path) -> None:
    """A picture of the first screen of a page in a file."""
    page = browser.new_page(viewport={"width": 1000, "height": 760})
    page.goto(file.as_uri())
    page.screenshot(path=picture)
    page.close()


def client_of(address: str) -> "OpenAI":
    """OpenAI's own client, for our server."""
    from openai import OpenAI

    return OpenAI(base_url=f"{address}/v1", api_key="none", timeout=1800)


def answer_by_api(client: "OpenAI") -> str:
    """The answer to the question of the page, without a page."""
    asked = client.chat.completions.create(
        model="tuned", messages=[{"role": "user", "content": QUESTION}], max_tokens=80, seed=1
    )
    return (asked.choices[0].message.content or "").strip()


def refusal_by_api(client: "OpenAI") -> str:
    """What the server says to the word that is not let through.

    Raises:
      UserError: it answers.
    """
    from openai import APIStatusError

    try:
        client.chat.completions.create(model="tuned", messages=[{"role": "user", "content": REFUSED}], max_tokens=8)
    except APIStatusError as error:
        return f"{error.status_code} {json.dumps(error.body)}"
    raise UserError("the filter", expected=f"that it stops {WORD!r}", found="an answer", remedy="report this as a bug")


def continued(client: "OpenAI", beginnings: Sequence[str]) -> list[str]:
    """How the served model goes on with each text, for 300 tokens where it does not end before."""
    made = client.completions.create(
        model="tuned", prompt=list(beginnings), max_tokens=300, temperature=1, top_p=1, seed=1
    )
    return [choice.text for choice in sorted(made.choices, key=lambda choice: choice.index)]
