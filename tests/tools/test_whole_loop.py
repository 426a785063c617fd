"""The whole loop without its model: its stages stopped and gone on with, its commands read by the programs that they
name, its visitor before a real server with a tiny model. `make whole-loop` runs all of it for real.
"""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Flags
from tests.openai_server import answer, serving, tasks_json
from tools import whole_loop_page as visitor
from tools.browser import find_chromium, headless_chromium
from tools.stages import ROOT, program, served
from tools.whole_loop import Loop, compared, main
from tools.whole_loop_commands import Sizes, commands
from tools.whole_loop_summary import summary

SIZES = Sizes(records=2, budget_usd=0.5, updates=3, answer_tokens=5)

# Three stages with real programs: one that is done at once, one that waits for a server, one that reads its output.
WAY = """
import sys
from pathlib import Path
from alpaca_jax.data.embedded import SEED_TASKS
from alpaca_jax.support.program import run_program
from tools.stages import Stage, go_through, program

folder, url = Path(sys.argv[1]), sys.argv[2]
make = [f"--seeds={SEED_TASKS}", f"--out={folder}/new.jsonl", "--num=2", "--model=m", f"--base_url={url}", "--json"]
clean = [f"--input={folder}/new.jsonl", f"--eval={folder}/tasks.jsonl", f"--fix={folder}/clean.jsonl", "--json"]
stages = [
    Stage("key", "a", lambda _: program("watermark", "key", f"--out={folder}/key"), ("key",)),
    Stage("make", "b", lambda _: program("selfinstruct", *make), ("new.jsonl",), goes_on=True),
    Stage("audit", "c", lambda _: program("audit", *clean), ("clean.jsonl", "clean.jsonl.log.jsonl")),
]
run_program(lambda: print(go_through(stages, folder)["make"]["requests"]))
"""


def start(folder: Path, url: str) -> subprocess.Popen:
    environment = os.environ | {"NO_PROXY": "127.0.0.1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", WAY, str(folder), url], cwd=ROOT, env=environment, **pipes)


def test_a_killed_way_goes_on_and_leaves_no_program_behind(tmp_path: Path):
    killed = False

    def script(request):
        good = answer(tasks_json("Name a river in Peru.", "Explain why bread rises in the oven."))
        return good if killed else good._replace(delay=60)

    # What a killed program leaves: `watermark key` would refuse the first; the second would stay for ever.
    (tmp_path / "key").write_text("half of")
    (tmp_path / ".key.1.tmp").touch()
    with serving(script) as server:
        process = start(tmp_path, server.url)
        while not server.requests:
            assert process.poll() is None, process.communicate()
        children = psutil.Process(process.pid).children(recursive=True)
        assert "alpaca_jax.selfinstruct" in children[0].cmdline()
        process.kill()  # it alone, and not its process group
        _, alive = psutil.wait_procs(children, timeout=20)
        for child in alive:
            child.kill()
        process.communicate()
        assert not alive
        assert sorted(path.name for path in (tmp_path / "done").iterdir()) == ["key.json"]
        assert not (tmp_path / ".key.1.tmp").exists()
        key = (tmp_path / "key").read_text()

        killed = True
        printed, said = (process := start(tmp_path, server.url)).communicate()
        assert process.returncode == 2, (printed, said)
        assert printed == ""
        assert "1/3 key: a (done before)" in said
        assert (tmp_path / "key").read_text() == key
        # A stage that fails: the program's own line, ours, and no mark.
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert "tasks.jsonl" in errors[0]
        assert errors[1:] == [said.splitlines()[-1]]
        assert "alpaca_jax.audit: expected that it ends well; found the exit code 2." in errors[1]
        assert sorted(path.stem for path in (tmp_path / "done").iterdir()) == ["key", "make"]

        (tmp_path / "tasks.jsonl").write_text('{"instruction": "Sing.", "input": "", "output": "La."}\n')
        requests = len(server.requests)
        printed, said = (process := start(tmp_path, server.url)).communicate()
        assert (process.returncode, printed) == (0, "1\n"), said
        assert len(server.requests) == requests
        assert json.loads((tmp_path / "done/audit.json").read_text())["records"] == 2


def all_commands(folder: Path) -> dict[str, list[str]]:
    return commands(folder, SIZES, folder / "model.gguf", "http://127.0.0.1:8000")


@pytest.mark.parametrize("name", all_commands(Path("a b")))
def test_the_programs_take_the_commands(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Parsed(Exception):
        pass

    parse = Flags.parse

    def parse_and_stop(self: Flags, *arguments) -> None:
        raise Parsed(parse(self, *arguments))

    module, *flags = all_commands(tmp_path / "a b")[name]
    monkeypatch.setattr(Flags, "parse", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [module, *flags])
    program_ = importlib.import_module(f"alpaca_jax.{module}{'.__main__' * (module == 'convert')}")
    with pytest.raises(Parsed):
        program_.main()
    if module in ("train", "plan"):
        from alpaca_jax.training.command_line import read_config, split_config_flags

        flags, changes = split_config_flags(flags)
        (config,) = (flag.removeprefix("--config=") for flag in flags if flag.startswith("--config="))
        read_config(config, changes)


def test_stages_and_summary_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every stage has its commands; nothing is run."""
    loop = Loop(tmp_path, SIZES)
    stages = loop.stages()
    figures = {stage.name: {"share": 0.51234, "held": True, "seconds": 60.0} for stage in stages}
    figures["page"] |= {"answer": "Goats.\nIbexes.", "refusal": "no"}
    (tmp_path / "clean.jsonl").write_text('{"instruction": "Sing.", "input": "", "output": "La."}\n')
    for name in ("base", "tuned"):
        (tmp_path / f"answers_{name}.jsonl").write_text(json.dumps({"id": "email_1", "output": f"{name} 1"}) + "\n")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/page_dark.png").touch()
    told = summary(tmp_path, stages, figures)
    assert told.startswith(f"# The whole loop: {len(stages)} stages, {len(stages)} min\n")
    assert "| audit | 60 | `clean.jsonl`, `clean.jsonl.log.jsonl` | share 0.5123, held yes |" in told
    assert "- **email_1, after**: tuned 1" in told
    assert "- **on the page**: Goats. Ibexes." in told
    assert "![the page in the dark](pictures/page_dark.png)" in told
    assert "page_light" not in told


@pytest.mark.parametrize(
    ("file", "content", "line"),
    [
        ("thesis.tex", "", "expected an empty folder, or one of this tool; found another"),
        ("settings.json", json.dumps(dataclasses.asdict(SIZES)), "expected records = 8, as now; found 2"),
    ],
)
def test_a_folder_that_is_another_s_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: str, line: str
):
    (tmp_path / file).write_text(content)
    flags = [f"--{name}={value}" for name, value in dataclasses.asdict(SIZES).items() if name != "records"]
    monkeypatch.setattr(sys, "argv", ["whole_loop", f"--out={tmp_path}", *flags])
    with pytest.raises(UserError, match=line):
        main()
    assert (tmp_path / file).read_text() == content


def test_what_is_recovered_is_compared_by_its_bits(tmp_path: Path):
    one = {"a": np.float32([1, 0]), "b": np.float32([2]), "c": np.float32([3])}
    for name, tensors in (("one", one), ("other", {"a": np.float32([1, -0.0]), "b": one["b"], "d": one["c"]})):
        save_file(tensors, tmp_path / name)
    assert compared(tmp_path / "one", tmp_path / "one") == (3, [])
    assert compared(tmp_path / "one", tmp_path / "other") == (4, ["a", "c", "d"])


def test_a_server_that_does_not_come_up_says_why(tmp_path: Path):
    flags = ["--checkpoint=nowhere", f"--feedback={tmp_path}/f.sqlite", "--port=-1"]
    with (
        pytest.raises(UserError, match=r"alpaca_jax.serve: expected a server that answers; found error: --port: .*-1"),
        served(flags, tmp_path / "logs/serve.log"),
    ):
        pass


def test_the_visitor_finds_the_page_the_filter_and_the_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tests.checkpoints import write_checkpoint
    from tests.models import SMALL

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # The name that the visitor asks for, room for his questions, and a key with which no answer happens to end early.
    tiny = write_checkpoint(tmp_path / "tuned", model=dataclasses.replace(SMALL, max_position_embeddings=512))
    key, words, out = tmp_path / "key", tmp_path / "words", tmp_path / "marked.jsonl"
    key.write_text(json.dumps({"key": "5a" * 32, "gamma": 0.25, "delta": 3.0, "context_width": 4}))
    words.write_text(visitor.WORD)
    flags = [f"--checkpoint={tiny}", "--port=0", f"--watermark_key={key}", f"--feedback={tmp_path}/f.sqlite"]
    with served([*flags, "--moderation=wordlist", f"--wordlist={words}"], tmp_path / "serve.log") as address:
        client = visitor.client_of(address)
        assert visitor.answer_by_api(client)
        assert visitor.refusal_by_api(client).startswith("400 ")
        out.write_text("".join(json.dumps({"output": text}) + "\n" for text in visitor.continued(client, ["A", "B"])))
        if chromium := find_chromium():
            with headless_chromium(chromium) as browser:
                said, refusal = visitor.visit(browser, address, tmp_path / "pictures")
            assert said
            assert "filter" in refusal
            pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
            assert pictures == [f"page_{name}.png" for name in ("dark", "light", "phone", "refusal")]
    found = program("watermark", "detect", f"--key={key}", f"--tokenizer={tiny}", f"--input={out}", "--json")
    assert all(text["detected"] for text in found["texts"])
