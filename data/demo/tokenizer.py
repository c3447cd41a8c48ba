"""Builds the demo model's tokenizer: byte-level BPE over the demo's own texts.

In: texts to learn the merges from. Out: a tokenizer which any `AutoTokenizer` loads without remote code. It
never loses a character: what the merges do not know is spelt in bytes.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE = 1536
MAX_LENGTH = 1024

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
THINK_START, THINK_END = "<think>", "</think>"

# A digit is a word of its own: carrying and parity are learnt by the digit, and a number that is copied
# from an option has the same tokens wherever it stands. An option's mark is one token, next to its number: what
# follows the mark is found by the simplest kind of attention there is.
_WORDS = Regex(r"[A-H]\. |\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s+")


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn a tokenizer from `texts`; the same texts in the same order give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Not special: a detokenizer drops special tokens, and the thoughts' end must stay in the text.
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in (THINK_START, THINK_END)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[TURN_START],
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
    )
    fast.chat_template = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
    return fast
