"""Root verbs and objects, and the picture and page that are made of them."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from alpaca_jax.data.embedded import SEED_TASKS
from alpaca_jax.evaluation.diversity import Verb, measure
from alpaca_jax.evaluation.diversity_verbs import as_shown, requests_of
from tests.programs import run, the_one_line


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("Write a short story about a lighthouse.", ("write", "story")),
        ("List three rivers in Asia", ("list", "river")),  # a verb only after "please"
        ("Name 5 fruits that are yellow.", ("name", "fruit")),
        ("Rewrite this sentence: “The dog chased a cat.”", ("rewrite", "sentence")),  # not the dog's verb
        ("Summarise the text.\nBirds build nests.", ("summarise", "text")),
        ("Given two numbers, compute their sum.", ("compute", "sum")),
        ("Compare and contrast the two poems.", ("compare", "poem")),
        ("Give me some tips for better sleep", ("give", "tip")),  # not "me"
        ("Could you suggest a title for this song?", ("suggest", "title")),
        ("Explain why the sky is blue.", ("explain", None)),
        ("What is the capital of Peru?", None),
        ("你好", None),
        ("", None),
    ],
)
def test_what_an_instruction_asks_for(text: str, request_: tuple[str, str | None] | None):
    (found,) = requests_of([text])
    assert (found and tuple(found)) == request_


def test_a_text_is_shown_without_its_material():
    assert as_shown('  Rewrite this sentence: "It was him."') == "Please rewrite this sentence"
    assert as_shown("Which rivers cross Vienna?\nOne word.") == "Which rivers cross Vienna?"
    assert as_shown("What’s new?") == "What’s new?"
    assert as_shown("\n\n") == ""
    assert len(as_shown("word " * 10_000)) <= 1007


TASKS = [
    {"instruction": "Write a story about a fox.", "input": "", "output": "Once there was a fox."},
    {"instruction": "Write a story about a hen.", "input": "Make it sad", "output": "No."},
    {"instruction": "Write a poem.", "input": "", "output": "Roses <script>alert(1)</script> are $red$ and $blue."},
    {"instruction": "List two rivers of the <b>Alps</b>.", "input": "", "output": "Nile, Rhine"},
    {"instruction": "Who are you?", "input": "", "output": ""},
    {
        "instruction": "Explain how rain falls.",
        "instances": [{"input": "a", "output": "b"}, {"input": "", "output": "c"}],
    },
    {"messages": [{"role": "user", "content": "Draw a map."}, {"role": "assistant", "content": "I cannot draw."}]},
]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "new $tasks$.jsonl"
    path.write_text("".join(json.dumps(task) + "\n" for task in TASKS))
    return path


def test_the_figures_are_those_counted_by_hand(tasks: Path, tmp_path: Path):
    seeds = tmp_path / "seeds.json"
    seeds.write_text(json.dumps([{"instruction": "Write a story about a cat.", "input": "", "output": "x"}]))
    found = measure(tasks, seeds)
    assert found.instructions == 7
    assert found.verbs == [
        Verb("write", 3, [("story", 2), ("poem", 1)]),
        Verb("draw", 1, [("map", 1)]),
        Verb("list", 1, [("river", 1)]),
    ]
    assert (found.with_object, found.without_object, found.without_verb, found.pairs) == (5, 1, 1, 4)
    assert found.lengths["Instructions"].tolist() == [6, 6, 3, 6, 3, 4, 3]
    assert found.lengths["Inputs"].tolist() == [0, 3, 0, 0, 0, 1, 0, 0]
    assert found.lengths["Outputs"].tolist() == [5, 1, 6, 2, 0, 1, 1, 3]
    # Of six words each, five are shared in order; "Write a poem" shares two of three; the others share none, or "a".
    np.testing.assert_allclose(found.similarity, [5 / 6, 5 / 6, 2 * 2 / 9, 0, 0, 0, 2 / 9])
    assert [one.f for one in found.alike][:3] == pytest.approx([5 / 6, 5 / 6, 4 / 9])


class Page(HTMLParser):
    """What a page would load, and its elements and texts."""

    def __init__(self, page: str):
        super().__init__()
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        # Within a drawing, "#id" is a part of it.
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_picture_and_the_page(tasks: Path, tmp_path: Path):
    out = tmp_path / "deep" / "rings.png"
    code, stdout, err = run("evaluate", "diversity", f"--input={tasks}", f"--out={out}", "--json")
    assert code == 0, err
    figures = json.loads(stdout)
    assert figures["top_verbs"][0] == {"verb": "write", "count": 3, "objects": {"story": 2, "poem": 1}}
    assert figures["median_words"] == {"instructions": 4.0, "inputs": 2.0, "outputs": 2.0}

    import matplotlib.image

    pixels = matplotlib.image.imread(out)
    assert pixels.shape[0] > 1000
    assert pixels.shape[1] > 1500
    # The rings are in colour: many hues left of the histograms, which are blue.
    left = np.unique((pixels[::4, : pixels.shape[1] // 2, :3] * 15).astype(int).reshape(-1, 3), axis=0)
    assert len(left) > 30

    text = out.with_suffix(".html").read_text()
    page = Page(text)
    assert all(value.startswith("#") for value in page.loads)
    assert "url(" not in re.sub(r"url\(#\w+\)", "", text)
    assert {"svg", "table"} <= page.tags
    assert not page.tags & {"script", "b", "link", "img"}
    assert "List two rivers of the <b>Alps</b>." in page.text
    assert "new $tasks$.jsonl" in page.text
    assert "the 175 seed tasks of this project" in page.text
    assert len(text) < 1_000_000
    assert sorted(path.name for path in out.parent.iterdir()) == ["rings.html", "rings.png"]


def test_a_file_without_any_verb_or_input_is_drawn_too(tmp_path: Path):
    path = tmp_path / "questions.json"
    path.write_text(json.dumps([{"instruction": "Who is she?", "input": "", "output": ""}]))
    code, _, err = run(
        "evaluate", "diversity", f"--input={path}", f"--out={tmp_path / 'q.png'}", f"--html={tmp_path / 'p.html'}"
    )
    assert code == 0, err
    assert "No instruction has a root verb" in (tmp_path / "p.html").read_text()


def test_the_seeds_are_like_themselves():
    found = measure(SEED_TASKS)
    assert found.instructions == 175
    assert found.similarity.tolist() == [1.0] * 175


def test_refusals(tasks: Path, tmp_path: Path):
    out = tmp_path / "made" / "x.png"
    flags = [f"--input={tasks}", f"--out={out}"]
    assert "a name that ends in .png" in the_one_line("evaluate", "diversity", flags[0], f"--out={tmp_path / 'x.jpg'}")
    assert "a name that ends in .html" in the_one_line("evaluate", "diversity", *flags, "--html=page.txt")
    assert "No such file" in the_one_line("evaluate", "diversity", "--input=nowhere.json", flags[1]).replace(
        "no s", "No s"
    )
    (tmp_path / "empty.json").write_text("[]")
    assert "no record at all" in the_one_line("evaluate", "diversity", f"--input={tmp_path / 'empty.json'}", flags[1])
    assert "no record at all" in the_one_line("evaluate", "diversity", *flags, f"--seeds={tmp_path / 'empty.json'}")
    assert not out.parent.exists()
