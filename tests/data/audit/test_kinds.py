"""Each check on what it must find, and on what only looks like it."""

import pytest

from alpaca_jax.data.audit.abilities import beyond_text
from alpaca_jax.data.audit.encoding import repair_text
from alpaca_jax.data.audit.endings import cut_answer
from alpaca_jax.data.audit.markers import empty_output, merged, no_output, noinput
from alpaca_jax.data.audit.material import missing_material
from alpaca_jax.data.instructions import Instruction

LIST_OF_19 = "\n".join(f"{number}. Idea {number}" for number in range(1, 20))
PARAGRAPH = "Bees matter. They carry pollen from flower to flower. Farmers depend on them. "


def task(instruction: str = "Say something.", input: str = "", output: str = "Something.") -> Instruction:
    return Instruction(instruction, input, output)


AN_EMPTY_INPUT_SPELT_OUT = """\
No input
noinput
<noinput>
< noinput >
`<noinput>`
[no input]
(No Input.)
No-input
<noinput
No input required.
no input is needed
N/A
n/a.
None
<none>
null
Not applicable
<noinput> 8"""


@pytest.mark.parametrize(
    "input",
    AN_EMPTY_INPUT_SPELT_OUT.splitlines(),
)
def test_an_empty_input_spelt_out(input: str):
    found = noinput(task("Name a colour.", input))
    assert found
    assert found.kind == "noinput"
    assert found.result == (task("Name a colour."),)


def test_the_marker_beside_other_text():
    assert noinput(task(input="Joe Smith \n<noinput>")).result == (task(input="Joe Smith"),)
    assert noinput(task(output="<noinput> \n\nBlue.")).result == (task(output="Blue."),)


@pytest.mark.parametrize(
    ("instruction", "input"),
    [
        ("Name a colour.", ""),
        ("Translate the given word.", "None"),
        ("What does this value mean in a table?", "N/A"),
        ("Rewrite it.", "No input from the public was heard."),
        ("Rewrite it.", "There is no input"),
        ("Say it in French.", "Nothing compares to you"),
        ("Fix the code.", "x = input() if no_input else None"),
    ],
)
def test_what_only_looks_like_an_empty_input(instruction: str, input: str):
    assert noinput(task(instruction, input)) is None


@pytest.mark.parametrize("output", ["", " \n\t"])
def test_an_empty_output(output: str):
    assert empty_output(task(output=output)).result == ()


A_MARKER_INSTEAD_OF_AN_OUTPUT = """\
<nooutput>
<No output>
no output
N/A
<No output. The task requires a poster, not text.>
No output because this asks for a picture, which a language model cannot give.
<A visual logo design>
<sketch/drawing>
[Image of a chess board]
![board](https://example.org/a.png)"""


@pytest.mark.parametrize(
    "output",
    A_MARKER_INSTEAD_OF_AN_OUTPUT.splitlines(),
)
def test_a_marker_instead_of_an_output(output: str):
    assert no_output(task(output=output)).result == ()


@pytest.mark.parametrize(
    ("instruction", "output"),
    [
        ("Answer.", "No"),
        ("Answer.", "None of them."),
        ("What does the program print?", "The program has no output."),
        ("Write a heading.", "<h1>My Heading</h1>"),
        ("Write HTML for a button.", "<button disabled>"),
        ("Sort it.", "[1, 2, 3]"),
        ("Greet me with an emoticon.", "<3"),
    ],
)
def test_a_short_output_is_an_output(instruction: str, output: str):
    assert no_output(task(instruction, output=output)) is None
    assert empty_output(task(instruction, output=output)) is None


def test_merged_records_come_apart():
    output = (
        "The first answer.\n##\n11. Instruction: Name  a\nmetal.\n11. Input:\n<noinput>\n11. Output:\nTin.\n____\n\n"
        "12. Instruction: Add.\n12. Input: 1 and 2\n12. Output: 3\n13. Instruction: Never answered."
    )
    found = merged(task("First.", "Its input.", output))
    assert found.result == (
        task("First.", "Its input.", "The first answer."),
        task("Name a metal.", "<noinput>", "Tin."),
        task("Add.", "1 and 2", "3"),
    )
    headed = "Yes.\n\n### Instruction:\nName a metal.\n\n### Response:\nTin."
    assert merged(task(output=headed)).result == (task(output="Yes."), task("Name a metal.", "", "Tin."))
    assert merged(task(input="It.\n7. Instruction: Add.\n7. Output: 3")).result == ()


@pytest.mark.parametrize(
    "output",
    [
        "Instructions:\n1. Preheat the oven.\n2. Bake.",
        "1. Instruction: tell them what to do.\n2. Feedback: say how it went.",
        "1. Input: what goes in.\n2. Output: what comes out.",
        "Instruction: Add.\nInput: 1 and 2\nOutput: 3",
        "print(count(lst))\n\nOutput: {2: 1}",
        "## Instructions\nRead them.\n## Output\nA file.",
    ],
)
def test_a_list_is_not_merged(output: str):
    assert merged(task(output=output)) is None


@pytest.mark.parametrize(
    ("output", "left"),
    [
        (LIST_OF_19, None),
        (LIST_OF_19.replace(".", " |"), None),
        ("The next full moon will be on October 31, 20", None),
        ("The company was founded in 20", None),
        ("Guess a secret number between 1-", None),
        ("The difference between both is $", None),
        ("The sum of both numbers is", None),
        (f"{PARAGRAPH}The largest of them live in the", PARAGRAPH.strip()),
        (f"{PARAGRAPH}Many countries have begun to protect them, as Germany, France and the G", PARAGRAPH.strip()),
        ("Yes. It is so. I know. But when the winter came and the snow lay on all the fields and nobody knew of", None),
        ("Here it is:\n```python\nprint(1)", None),
    ],
)
def test_a_cut_answer(output: str, left: str | None):
    found = cut_answer(task(output=output))
    assert found
    assert found.result == (() if left is None else (task(output=left),))


def test_a_table_that_had_years_to_come():
    assert cut_answer(task("Make a table of costs from 2000 to 2019.", output="Year | Cost")).result == ()
    assert cut_answer(task("Design a table of costs.", output="Year | Cost")) is None


@pytest.mark.parametrize(
    ("instruction", "output"),
    [
        ("When?", "The company was founded in 2008."),
        ("When?", "It was in 2008"),
        ("When is it due?", "December 20"),
        ("When?", "In 1920."),
        ("What are the odds?", "About 1 in 20"),
        ("List 19 ideas.", LIST_OF_19),
        ("Reasons to study abroad?", "1. A new culture\n2. A new language\n3. Better prospects for a job"),
        ("List 20.", f"{LIST_OF_19}\n20. Idea 20"),
        ("Write a tweet.", "Stay safe. Stay home. Keep away from all of them. We can do this together now #StaySafe"),
        ("Quote somebody.", "“Without hope nothing is done.” - Helen Keller"),
        ("Sort the words: play I like to the", "I like play the to"),
        ("Reverse the words: The is sky blue.", "Blue sky is the"),
        ("Write a letter.", "Dear John,\nSee you soon.\n\nWarm regards,\nThe Family of"),
        ("Compute 12 × 10.", "12 × 10 = 120"),
        ("Where does he live?", "I do not know where he is"),
        ("Write a query.", "SELECT * FROM users;"),
        ("Write a headline.", "Swimmer Breaks World Record"),
        ("Write it in Python.", "```python\nprint(1)\n```"),
        ("Tell a story.", f"{PARAGRAPH}See you soon"),
    ],
)
def test_a_whole_answer(instruction: str, output: str):
    assert cut_answer(task(instruction, output=output)) is None


@pytest.mark.parametrize(
    ("instruction", "input"),
    [
        ("Describe the photo.", "https://example.org/1.jpg"),
        ("Describe the photo.", "![a house](https://example.org/1.jpg)"),
        ("Summarise the article.", "Article link: https://example.org/news"),
        ("Suggest improvements.", "[PICTURE]"),
        ("Compare them.", "[Image 1]\n\n[Image 2]"),
        ("Find the largest value.", "<excel file>"),
        ("Summarise what I read.", "<LINK TO ARTICLE>"),
        ("Describe the following painting in one sentence.", ""),
        ("Summarise the attached document.", ""),
        ("Summarise the article I just read.", ""),
    ],
)
def test_missing_material(instruction: str, input: str):
    assert missing_material(task(instruction, input)).result == ()


@pytest.mark.parametrize(
    ("instruction", "input"),
    [
        ("Which domain is it?", "https://example.org/1.jpg"),
        ("Write a regular expression for the links of a page.", "https://example.org"),
        ("Summarise the article.", "From https://example.org: bees matter to farmers, who depend on them."),
        ("Sort the list.", "[tomato, potato, onion]"),
        ("Write a caption.", "[photo of a person who walks in the woods]"),
        ("Convert it.", "<person><name>Ann</name></person>"),
        ("Summarise the following text: bees matter.", ""),
        ("Is the following text true? Bees matter.", ""),
        ("Explain how a camera takes a photograph.", ""),
        ("Write a program that sorts the lines of a given text.", ""),
        ("Describe the painting “The Night Watch”.", ""),
        ("Create a list in the following format", ""),
    ],
)
def test_the_material_is_there_or_not_needed(instruction: str, input: str):
    assert missing_material(task(instruction, input)) is None


BEYOND_TEXT = """\
What is today's date?
What time is it?
What is the current exchange rate?
Summarize the recent news.
Search the web for a cake recipe.
Find a website about bees.
Find me an article on bees.
Draw a horse.
Design a logo for a café.
Create a video.
Play a song by Abba.
Set a reminder for 8 am.
Edit the photo to make it brighter."""


@pytest.mark.parametrize(
    "instruction",
    BEYOND_TEXT.splitlines(),
)
def test_beyond_text(instruction: str):
    assert beyond_text(task(instruction)).result is None


WHAT_TEXT_CAN_DO = """\
Write a poem about today's weather.
Explain what photography is.
Create a script for a video.
Plot a novel.
Design a website for a shop.
How do search engines work?
Write a character sketch.
Find a synonym of big.
What is the current in this circuit?
Draw a conclusion from the data.
Create a video game idea.
Describe the history of music.
Name a famous painting.
Write code that prints the current date.
Imagine it is raining right now.
Explain how a reminder helps."""


@pytest.mark.parametrize(
    "instruction",
    WHAT_TEXT_CAN_DO.splitlines(),
)
def test_what_text_can_do(instruction: str):
    assert beyond_text(task(instruction)) is None


@pytest.mark.parametrize(
    ("text", "repaired", "kinds"),
    [
        ("It’s naïve, £5 — “Müller”, 日本語, Ελλάδα 🦙\n\tx", None, []),
        ("Itâ€™s fine", "It’s fine", ["mojibake"]),
        ("Ã‰cole MÃ¼ller", "École Müller", ["mojibake"]),
        ("\x93Yes\x94", "“Yes”", ["mojibake"]),
        ("one\x0btwo\x0cthree", "one\ntwo\nthree", ["control_character"]),
        ("\ufeffa\x1b\x07b", "ab", ["control_character"]),
        ("lost \ufffd here", None, ["replacement_character"]),
    ],
)
def test_damaged_characters(text: str, repaired: str | None, kinds: list[str]):
    now, found = repair_text(text)
    assert now == (text if repaired is None else repaired)
    assert [fault.kind for fault in found] == kinds
    assert repair_text(now) == (now, [fault for fault in found if fault.kind == "replacement_character"])
