"""The demo in a real browser, before the real service and a tiny model whose steps the tests hold or let go."""

import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from alpaca_jax.data.instructions import Instruction
from alpaca_jax.serving.answers import Delta
from alpaca_jax.serving.feedback import export_feedback
from alpaca_jax.serving.service import ServedModel, Service
from tests.browser import Visitor
from tests.serving.server import Served, ask, eventually, running

# Gradio asks pandas for what the newest pandas gives up.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*no_silent_downcasting"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]

EVIL = "<img src=x onerror='document.title=1'><script>document.title=2</script>![](http://example.com/x.png)"


class Steps:
    """A gate for the engine that lets a number of steps through."""

    def __init__(self) -> None:
        self._permits = threading.Semaphore(0)
        self.allow = self._permits.release

    def wait(self) -> None:
        self._permits.acquire()


class EvilService(Service):
    """A service whose models end their answers with markup."""

    async def stream(self, *request: Any) -> AsyncIterator[Delta]:
        async for delta in super().stream(*request):
            yield delta._replace(text=delta.text + EVIL) if delta.finish_reason else delta


@pytest.fixture(scope="module")
def demo(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    """Two models side by side, which are one engine under two names."""
    folder = tmp_path_factory.mktemp("demo")
    models = [ServedModel("tuned", engine, "1" * 64), ServedModel("base", engine, "2" * 64)]
    looked_up, look_up = set(), socket.getaddrinfo

    def note(host: Any, *rest: Any, **options: Any) -> Any:
        looked_up.add(host)
        return look_up(host, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", note)
        with running(EvilService(models), folder) as served:
            yield served, folder / "feedback.sqlite"
    assert looked_up <= {"127.0.0.1"}, "the server asked another machine"


@pytest.fixture
def steps(engine: Any) -> Iterator[Steps]:
    """Holds the engine; what is left of it runs when the test ends."""
    before, engine.gate = engine.gate, Steps()
    yield engine.gate
    engine.gate, held = before, engine.gate
    held.allow(1_000)


def visit(open_page: Visitor, served: Served, **options: Any) -> Page:
    page = open_page(f"http://127.0.0.1:{served.port}/", **options)
    expect(button(page, "Send")).to_be_enabled()
    return page


def button(page: Page | Locator, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def panel(page: Page, model: str) -> Locator:
    return page.locator("#answers > *").filter(has=page.get_by_text(model, exact=True))


def send(page: Page, instruction: str, most: int = 12, seed: int = 5) -> None:
    page.get_by_label("Instruction").fill(instruction)
    if not page.get_by_label("Seed").is_visible():
        page.get_by_role("button", name="How the answer is drawn").click()
    page.get_by_label("number input for Longest answer").fill(str(most))
    page.get_by_label("Seed").fill(str(seed))
    button(page, "Send").click()


def steps_until_free(engine: Any, steps: Steps) -> int:
    """Fewer than answers of 60 tokens would take if nobody ended them."""
    for count in range(1, 50):
        steps.allow(1)
        if eventually(lambda: engine.running + engine.waiting == 0, seconds=0.3):
            return count
    return 50


def test_an_answer_comes_bit_by_bit_and_is_voted_on(
    open_page: Visitor, demo: tuple[Served, Path], engine: Any, steps: Steps
):
    served, feedback = demo
    page = visit(open_page, served)
    button(page, "Sort words").click()
    expect(page.get_by_label("Input (optional)")).to_have_value("heron, alpaca, bat, ostrich, gnat")
    page.get_by_label("Input (optional)").fill("heron & <b>bat</b>")
    send(page, "Sort them.")
    tuned, base = panel(page, "tuned"), panel(page, "base")
    expect(tuned.get_by_role("status")).to_have_text("thinking …")
    expect(button(page, "Send")).to_be_disabled()
    assert eventually(lambda: engine.waiting == 2)
    steps.allow(4)
    expect(tuned.get_by_role("status")).to_contain_text("tokens/s")
    expect(button(tuned, "Good")).to_be_hidden()
    assert EVIL not in tuned.get_by_role("textbox").input_value()
    steps.allow(100)
    for column in (tuned, base):
        expect(column.get_by_role("status")).to_contain_text("12 tokens")
        expect(column.get_by_role("status")).to_contain_text("cut at the longest answer allowed")
        expect(button(column, "Good")).to_be_visible()
    expect(button(page, "Send")).to_be_enabled()

    # What was set is what was drawn, and markup is text in it.
    record = Instruction("Sort them.", "heron & <b>bat</b>", "")
    request = {"prompt": engine.prompt_ids(record), "temperature": 0.7, "top_p": 0.9, "max_tokens": 12, "seed": 5}
    drawn = ask(served.port, "/v1/completions", {"model": "tuned", **request}).body["choices"][0]["text"]
    answer = tuned.get_by_role("textbox", name="tuned", exact=True).input_value()
    assert answer == drawn.lstrip() + EVIL
    assert drawn
    assert page.title() == "alpaca_jax"
    button(tuned, "Copy").click()
    expect(tuned.get_by_role("status")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == answer

    button(tuned, "Good").click()
    expect(tuned.get_by_role("status")).to_have_text("Thank you: your vote is saved.")
    button(base, "Flag").click()
    button(base, "Send the flag").click()
    expect(base.get_by_role("status")).to_have_text("Please choose a reason.")
    base.get_by_label("It states something false as a fact").check()
    base.get_by_label("In your own words (optional)").fill(f"A bat is no bird. {EVIL}")
    button(base, "Send the flag").click()
    expect(base.get_by_role("status")).to_have_text("Thank you: the flag is saved.")
    expect(button(base, "Send the flag")).to_be_hidden()

    out = feedback.with_suffix(".jsonl")
    assert export_feedback(feedback, out) == 2
    vote, flag = (json.loads(line) for line in out.read_text(encoding="utf-8").splitlines())
    assert (vote["kind"], vote["value"], vote["model"], vote["checkpoint"]) == ("vote", "up", "tuned", "1" * 64)
    assert (flag["kind"], flag["value"], flag["model"], flag["checkpoint"]) == ("flag", "false", "base", "2" * 64)
    assert flag["detail"] == f"A bat is no bird. {EVIL}"
    for row in (vote, flag):
        assert (row["instruction"], row["input"], row["answer"]) == ("Sort them.", "heron & <b>bat</b>", answer)
        assert row["finish_reason"] == "length"
        assert row["parameters"] == {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 12, "seed": 5}


def test_stop_and_a_closed_tab_free_the_slots(open_page: Visitor, demo: tuple[Served, Path], engine: Any, steps: Steps):
    page = visit(open_page, demo[0])
    send(page, "Tell me a long story.", most=60)
    assert eventually(lambda: engine.waiting == 2)  # or the first to come would take the steps of both
    steps.allow(4)
    status = panel(page, "tuned").get_by_role("status")
    expect(status).to_contain_text("tokens/s")
    button(page, "Stop").click()
    expect(status).to_contain_text("you stopped it")
    expect(panel(page, "base").get_by_role("status")).to_contain_text("you stopped it")
    expect(button(page, "Send")).to_be_enabled()
    assert steps_until_free(engine, steps) <= 20

    send(page, "Tell me another.", most=60)
    assert eventually(lambda: engine.waiting == 2)
    page.close()  # while nothing comes that Gradio could find nobody to take
    assert eventually(lambda: not any(demo[0].service._pending.values()))
    assert steps_until_free(engine, steps) <= 5


def test_what_is_not_answered_is_explained(open_page: Visitor, demo: tuple[Served, Path]):
    page = visit(open_page, demo[0])
    send(page, "  ")
    status = panel(page, "tuned").get_by_role("status")
    expect(status).to_contain_text("Write one first.")
    send(page, f"{EVIL} " * 200)
    expect(status).to_contain_text("context is")
    expect(button(panel(page, "tuned"), "Good")).to_be_hidden()
    expect(button(page, "Send")).to_be_enabled()
    assert page.title() == "alpaca_jax"


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_on_a_phone_and_in_the_dark(open_page: Visitor, demo: tuple[Served, Path], width: int, dark: bool):
    page = visit(open_page, demo[0], width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    is_dark = "parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]) < 64"
    assert page.evaluate(is_dark) is dark
    button(page, "Light or dark").click()
    page.wait_for_function(f"({is_dark}) === {json.dumps(not dark)}")
    page.reload()
    page.wait_for_function(f"({is_dark}) === {json.dumps(not dark)}")
    page.get_by_role("button", name="Terms of use").click()
    expect(page.get_by_text("without a warranty of any kind")).to_be_visible()
    expect(page.get_by_text("This is a research model.")).to_be_visible()


def test_only_what_the_page_needs_is_served(demo: tuple[Served, Path]):
    port = demo[0].port
    page = ask(port, "/")
    assert page.status == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert [model["id"] for model in ask(port, "/v1/models").body["data"]] == ["tuned", "base"]
    for path in (
        "/v1/nothing",
        "/gradio_api/upload",
        "/gradio_api/file=/etc/passwd",
        "/monitoring",
        "/gradio_api/runs",
    ):
        refused = ask(port, path)
        assert refused.status == 404
        assert refused.body["error"]["type"] == "invalid_request_error"


def test_an_open_page_does_not_keep_the_server_from_ending(open_page: Visitor, model: ServedModel, tmp_path: Path):
    with running(Service([model]), tmp_path) as served:
        page = visit(open_page, served)
        expect(page.locator("#answers textarea")).to_have_count(1)
        start = time.monotonic()
    assert time.monotonic() - start < 10
    page.close()
    open_page.complaints.clear()  # that the server is gone
