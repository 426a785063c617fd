"""The words of the demo's page."""

TITLE = "alpaca_jax"
TAGLINE = "A LLaMA that learnt to follow instructions"

NOTICE = (
    "<strong>This is a research model.</strong> A small language model, fine-tuned on instructions, writes these "
    "answers. They may be false, outdated, offensive or made up, however sure they sound. It does not browse, remember "
    "or calculate. Do not type anything private, and do not rely on an answer that matters."
)

TERMS = """
1. The demo is for research and for trying out. It is not for advice on health, law, money or safety, and not for
   decisions about people.
2. Do not use it for anything unlawful, hateful or harassing, for sexual content about minors, to deceive, to pass for
   somebody else, or for unwanted messages. A content filter may withhold a question or an answer.
3. What the model was made from carries terms of its own: the licence of the base model, and, where the training data
   came out of another company's model, that company's. Weights of the original Alpaca are for non-commercial use.
4. The server does not keep what you ask. When you vote on an answer or flag it, that question, its answer and its
   settings are saved on the server, without your name or address, so that the model can be made better.
5. Answers may carry a statistical watermark, by which they can be recognised as written by a machine.
6. The demo comes as it is, without a warranty of any kind.
"""

# What the page offers to try: a short name, an instruction, and its input.
EXAMPLES = [
    ("Explain a thing", "Tell me about alpacas.", ""),
    ("Write a letter", "Write a short, friendly e-mail that invites a colleague to lunch on Friday.", ""),
    ("Make a list", "List five things to check before a long bicycle ride.", ""),
    ("Sort words", "Sort the animals into those that fly and those that do not.", "heron, alpaca, bat, ostrich, gnat"),
    (
        "Summarise",
        "Summarise the text in one sentence.",
        "Alpacas are kept in herds on the high plains of the Andes. They are shorn once a year; their fleece is light, "
        "warm and free of lanolin, and comes in more than twenty natural colours.",
    ),
    ("Write code", "Write a Python function that returns the n-th Fibonacci number.", ""),
]

ENDINGS = {
    "stop": "the model ended its answer",
    "length": "cut at the longest answer allowed",
    "content_filter": "the content filter withheld the rest",
    "stopped": "you stopped it",
}
