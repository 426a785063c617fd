import json
import shutil

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alpaca_jax.data import tokenizer_files
from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.instructions import read_records
from alpaca_jax.data.prompt import render_prompt
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.data.word_cache import words_stand_apart
from alpaca_jax.support.errors import UserError

TASKS = [located.record for located in read_records(SEED_TASKS)]
TEXTS = [render_prompt(task.instruction, task.input) for task in TASKS]
ANSWERS = [task.output for task in TASKS]
ODD = [
    "",
    " ",
    "  two",
    "\n\n a\t",
    "x" * 300,
    "1234567",
    "é é 🦙 漢字",
    "▁▂▃ a▁b ▁",
    "<s>",
    "</s> <s>[INST]",
    "<0x0A>",
    "\ufeff\u200b",
]
MARKS = ["<|bos|>", "<|eos|>", "<|pad|>"]


def ids_of(tokenizer, texts, where):
    return [ids.tolist() for ids in tokenizer.encode_batch(texts, where)]


def trained_bpe(normalizer=None, pre_tokenizer=None, decoder=None, alphabet=None):
    """A `tokenizers` BPE tokenizer trained on the seed tasks; byte-level unless told otherwise."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None, byte_fallback=alphabet == []))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer or tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoder or tokenizers.decoders.ByteLevel()
    special = MARKS if alphabet is None else MARKS + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet() if alphabet is None else alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS + ANSWERS, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def bpe_folder(tmp_path_factory):
    """A byte-level tokenizer as a model's folder would hold it, bos in its template, with traps set."""
    folder = tmp_path_factory.mktemp("bpe")
    tokenizer = trained_bpe()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]
    )
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16, pad_token="<|pad|>", pad_id=2)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_config(folder, bos_token="<|bos|>", eos_token={"__type": "AddedToken", "content": "<|eos|>", "special": True})
    return folder


def write_config(folder, **content):
    (folder / "tokenizer_config.json").write_text(json.dumps(content))


def json_tokenizer(folder, **config):
    """A byte-level tokenizer.json with the given configuration, in a new folder."""
    folder.mkdir()
    trained_bpe().save(str(folder / "tokenizer.json"))
    write_config(folder, **config)
    return folder


# SentencePiece


@pytest.fixture(scope="module")
def llama_like(tmp_path_factory):
    """A SentencePiece model whose pieces never reach over a space or a newline, as LLaMA's and Mistral's."""
    from sentencepiece import SentencePieceTrainer

    path = tmp_path_factory.mktemp("llama") / "tokenizer.model"
    with path.open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=(line for text in TEXTS + ANSWERS for line in text.split("\n")),
            model_writer=file,
            model_type="bpe",
            vocab_size=1500,
            byte_fallback=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
    return path


def test_sentencepiece_ids_are_the_library_s_own():
    from sentencepiece import SentencePieceProcessor

    library, ours = SentencePieceProcessor(model_file=str(TOKENIZER)), load_tokenizer(TOKENIZER)
    assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (1, 2, library.vocab_size())
    for text in TEXTS + ODD:
        assert ours.encode_prompt(text) == [1, *library.encode(text)]


@settings(deadline=None)
@given(st.lists(st.text() | st.text("aT 1.\n▁<s>", max_size=20), max_size=4))
@example(["▁ sparkline: ▁▂▃ a▁b ▁", "", "  two\n  four", "</s> <s>", *ANSWERS])
@pytest.mark.parametrize("form", ["embedded", "llama"])
def test_a_batch_of_sentencepiece_texts_is_what_the_library_gives_one_by_one(llama_like, form, texts):
    from sentencepiece import SentencePieceProcessor

    path = TOKENIZER if form == "embedded" else llama_like
    library, ours = SentencePieceProcessor(model_file=str(path)), load_tokenizer(path)
    assert words_stand_apart(tokenizer_files.parse_sentencepiece(tokenizer_files.find(path))) == (form == "llama")
    assert ids_of(ours, texts, "start") == [[1, *library.encode(text)] for text in texts]
    assert ids_of(ours, texts, "after special") == [library.encode(text) for text in texts]
    assert ids_of(ours, texts, "inside") == [ours.encode_response(text) for text in texts]
    plain = [text for text in texts if "▁" not in text]
    assert ids_of(ours, plain, "start") == [[1, *ours.encode_response(" " * bool(t) + t)] for t in plain]


def test_sentencepiece_ids_are_those_of_transformers(tmp_path):
    # The backend over the sentencepiece library itself. LlamaTokenizer, which transformers 5 builds anew from the
    # pieces' scores, differs from it in runs of spaces.
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    shutil.copy(TOKENIZER, tmp_path / "tokenizer.model")
    theirs = SentencePieceBackend(
        vocab_file=str(tmp_path / "tokenizer.model"), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    ours = load_tokenizer(tmp_path)
    for text in TEXTS:
        assert ours.encode_prompt(text) == [theirs.bos_token_id, *theirs.encode(text, add_special_tokens=False)]


@settings(deadline=None)
@given(st.text() | st.sampled_from(ODD + ANSWERS))
@example("▁ sparkline: ▁▂▃ a▁b ▁")
def test_sentencepiece_responses_come_back_exactly(text):
    tokenizer = load_tokenizer(TOKENIZER)
    ids = tokenizer.encode_response(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([1, *ids, 2, 10**6]) == text
    assert not {0, 1, 2} & set(ids)


def test_sentencepiece_invents_a_space_before_a_prompt_and_none_before_a_response():
    tokenizer = load_tokenizer(TOKENIZER)
    prompt, response = tokenizer.encode_prompt("The answer"), tokenizer.encode_response("The answer")
    assert tokenizer.decode(prompt) == " The answer"
    assert "".join(map(tokenizer.piece, response)) == "The answer"
    assert [tokenizer.piece(id) for id in (0, 1, 2, 10**6)] == ["<unk>", "<s>", "</s>", "<id 1000000>"]


def test_sentencepiece_takes_what_the_configuration_says(tmp_path):
    shutil.copy(TOKENIZER, tmp_path / "tokenizer.model")
    plain = load_tokenizer(tmp_path)
    added = {"2048": {"content": "[PAD]"}, "2049": {"content": "<|end|>"}, "1": {"content": "<s>"}}
    write_config(tmp_path, add_bos_token=False, bos_token="", eos_token="<|end|>", added_tokens_decoder=added)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (1, 2049, 2050)
    assert tokenizer.encode_prompt("a") == plain.encode_prompt("a")[1:]
    assert tokenizer.decode([*tokenizer.encode_response("a"), 2048, 2049]) == "a"
    assert tokenizer.piece(2048) == "[PAD]"
    assert tokenizer.special_ids == {"<s>": 1, "</s>": 2, "[PAD]": 2048, "<|end|>": 2049}
    assert plain.special_ids == {"<s>": 1, "</s>": 2}
    assert tokenizer.sha256 != plain.sha256
    assert load_tokenizer(tmp_path / "tokenizer.model").sha256 == tokenizer.sha256


# tokenizer.json


def test_byte_level_ids_are_those_of_transformers(bpe_folder):
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast.from_pretrained(bpe_folder)
    ours = load_tokenizer(bpe_folder)
    assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (0, 1, len(theirs))
    for text in TEXTS + [text for text in ODD if "|" not in text]:
        assert ours.encode_prompt(text) == theirs(text)["input_ids"]
        assert ours.encode_response(text) == theirs(text, add_special_tokens=False)["input_ids"]


@settings(deadline=None)
@given(st.text() | st.sampled_from(ODD + ANSWERS))
def test_byte_level_responses_come_back_exactly(bpe_folder, text):
    tokenizer = load_tokenizer(bpe_folder)
    ids = tokenizer.encode_response(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([0, *ids, 1, 2, 10**6]) == text


def test_special_tokens_in_a_text_are_text(bpe_folder):
    tokenizer = load_tokenizer(bpe_folder)
    for text in ("".join(MARKS), "a <|eos|> b"):
        assert not {0, 1, 2} & set(tokenizer.encode_response(text))
        assert not {0, 1, 2} & set(tokenizer.encode_prompt(text)[1:])
        assert tokenizer.decode(tokenizer.encode_response(text)) == text


@pytest.mark.parametrize("form", ["prepend", "metaspace", "byte level"])
def test_an_invented_space_is_kept_from_responses(tmp_path, form):
    from tokenizers import decoders, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    strip = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made = {
        "prepend": lambda: trained_bpe(
            normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
            pre_tokenizers.Split("\n", "isolated"),
            strip,
            alphabet=[],
        ),
        "metaspace": lambda: trained_bpe(
            pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False), decoder=strip, alphabet=[]
        ),
        "byte level": lambda: trained_bpe(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
    }[form]()
    made.save(str(tmp_path / "tokenizer.json"))
    write_config(tmp_path, bos_token="<|bos|>", eos_token="<|eos|>")
    tokenizer = load_tokenizer(tmp_path)
    for text in [*ANSWERS, "The answer", " The answer"]:
        assert tokenizer.decode(tokenizer.encode_response(text)) == text
        assert tokenizer.encode_prompt(text) == made.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode_prompt("The") != tokenizer.encode_response("The")
    assert tokenizer.encode_prompt("The") == tokenizer.encode_response(" The")
    library = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for text in ("The answer", " The", "\n"):
        after = ids_of(tokenizer, [text], "after special")[0]
        assert [tokenizer.special_ids["<|eos|>"], *after] == library.encode("<|eos|>" + text, add_special_tokens=False)
    invents = ids_of(tokenizer, ["The"], "after special") == [tokenizer.encode_prompt("The")]
    assert invents == (form != "metaspace")


def test_whether_bos_is_added(tmp_path, bpe_folder):
    config = {"bos_token": "<|bos|>", "eos_token": "<|eos|>"}
    assert load_tokenizer(bpe_folder).encode_prompt("")[:1] == [0]
    assert load_tokenizer(json_tokenizer(tmp_path / "none", **config)).encode_prompt("") == []
    assert load_tokenizer(json_tokenizer(tmp_path / "told", **config, add_bos_token=True)).encode_prompt("") == [0]
    shutil.copytree(bpe_folder, tmp_path / "told not")
    write_config(tmp_path / "told not", **config, add_bos_token=False)
    assert load_tokenizer(tmp_path / "told not").encode_prompt("") == []
    (tmp_path / "told not" / "tokenizer_config.json").write_text('{"eos_token": "<|eos|>"}')
    assert load_tokenizer(tmp_path / "told not").encode_prompt("") == [0]


def test_a_bos_that_is_the_eos_and_never_added_is_none(tmp_path):
    for added in ({}, {"add_bos_token": False}):
        folder = json_tokenizer(tmp_path / str(len(added)), bos_token="<|eos|>", eos_token="<|eos|>", **added)
        tokenizer = load_tokenizer(folder)
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.encode_prompt("")) == (None, 1, [])
        assert tokenizer.special_ids == {"<|bos|>": 0, "<|eos|>": 1, "<|pad|>": 2}


def test_a_piece_for_display(bpe_folder):
    tokenizer = load_tokenizer(bpe_folder)
    (llama_start, *_) = tokenizer.encode_response("🦙")
    assert tokenizer.piece(tokenizer.encode_response(" the")[0]) == " the"
    assert tokenizer.piece(tokenizer.eos_id) == "<|eos|>"
    assert tokenizer.piece(llama_start) not in ("", "\ufffd")


# Both


def test_a_saved_copy_is_the_same_tokenizer(tmp_path, bpe_folder):
    for name, source in (("sentencepiece", TOKENIZER), ("byte level", bpe_folder / "tokenizer.json")):
        original = load_tokenizer(source)
        original.save(tmp_path / name)
        copy = load_tokenizer(tmp_path / name)
        assert copy.sha256 == original.sha256
        assert copy.encode_prompt(TEXTS[0]) == original.encode_prompt(TEXTS[0])
        assert (copy.bos_id, copy.eos_id, copy.vocab_size) == (original.bos_id, original.eos_id, original.vocab_size)


def test_without_configuration_the_end_is_the_one_usual_token(tmp_path):
    folder = json_tokenizer(tmp_path / "a")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="eos"):
        load_tokenizer(folder / "tokenizer.json")
    content = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(content.replace("<|eos|>", "<|endoftext|>"))
    assert load_tokenizer(folder).eos_id == 1
    (folder / "tokenizer.json").write_text(content.replace("<|eos|>", "</s>").replace("<|pad|>", "<|endoftext|>"))
    with pytest.raises(UserError, match="eos"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"eos_token": ""}, "none, or an empty string"),
        ({"eos_token": None}, "none, or an empty string"),
        ({"bos_token": "<|eos|>", "eos_token": "<|eos|>", "add_bos_token": True}, "id 1 for both"),
        ({"eos_token": "<|stop|>"}, "eos_token: expected a token of the vocabulary"),
        ({"eos_token": 2}, "a text for eos_token"),
        ({"eos_token": "<|eos|>", "add_bos_token": "yes"}, "true or false"),
    ],
)
def test_a_configuration_that_could_not_stop_is_refused(tmp_path, config, said):
    folder = json_tokenizer(tmp_path / "a", **config)
    with pytest.raises(UserError, match=said):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.model", b""),
        ("tokenizer.model", b"\x08\x01"),
        ("tokenizer.model", b"some words, not a model"),
        ("tokenizer.model", b"\0" * 2**16),
        ("tokenizer.json", b""),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[1, 2]"),
        ("tokenizer.json", b'{"model": {"type": "BPE"}'),
        ("tokenizer.json", b'{"model": {"type": "BPE"}}'),
        ("tokenizer.json", b"\xff\xfe"),
    ],
)
def test_what_is_no_tokenizer_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(UserError) as error:
            load_tokenizer(path)
        assert str(tmp_path / name) in str(error.value)


def test_a_damaged_model_is_refused(tmp_path):
    (tmp_path / "cut.model").write_bytes(TOKENIZER.read_bytes()[:1000])
    with pytest.raises(UserError, match="a SentencePiece model"):
        load_tokenizer(tmp_path / "cut.model")


@pytest.mark.parametrize("place", ["tokenizer", "checkpoints/tokenizer"])
def test_it_is_found_in_a_checkpoint_and_in_a_run_unless_the_folder_has_its_own(tmp_path, place, bpe_folder):
    load_tokenizer(TOKENIZER).save(tmp_path / place)
    assert load_tokenizer(tmp_path).sha256 == load_tokenizer(TOKENIZER).sha256
    load_tokenizer(bpe_folder).save(tmp_path)
    assert load_tokenizer(tmp_path).sha256 == load_tokenizer(bpe_folder).sha256


def test_where_there_is_none(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(UserError, match="found neither"):
        load_tokenizer(tmp_path)
