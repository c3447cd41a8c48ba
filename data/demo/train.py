"""Trains the demo model: a Qwen3 of a million parameters which answers the demo's kinds of questions.

In: endless examples from `generate.py`, never a row of the demo's own splits. Out: `data/demo/model/`, a directory
that transformers and vLLM load. Loss is taken on the completion alone. The same machine, library versions and number
of threads give the same bits.

Try: python data/demo/train.py --steps 20 --output /tmp/demo-model
"""

import argparse
import itertools
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from generate import Example, demo_splits, identity, training_examples
from tokenizer import END_OF_TEXT, MAX_LENGTH, TURN_END, build_tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SEED = 1234
NUM_THREADS = 2
NUM_STEPS = 1500
NUM_WARMUP_STEPS = 50
BATCH_SIZE = 16
LEARNING_RATE = 3e-3
NO_THINKING_SHARE = 0.15
NUM_TOKENIZER_EXAMPLES = 3000


@dataclass(frozen=True, slots=True)
class Lesson:
    """Token ids of a prompt and its completion; the loss begins at `prompt_length`."""

    ids: list[int]
    prompt_length: int


def prompt_and_completion(example: Example, tokenizer: PreTrainedTokenizerFast, *, thinking: bool) -> tuple[str, str]:
    """The text that the model will see in a run, and the text that it should go on with."""
    messages = [{"role": "user", "content": example.task.prompt(example.row)}]
    prompt = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    thought = f"{example.thought}</think>\n\n" if thinking else ""
    return prompt, f"{thought}{example.reply}{TURN_END}"


def lessons(tokenizer: PreTrainedTokenizerFast, examples: Iterator[Example]) -> Iterator[Lesson]:
    """Examples as token ids; in a small share of them the thought is left out."""
    rng = random.Random(SEED)
    for example in examples:
        thinking = rng.random() >= NO_THINKING_SHARE
        prompt, completion = prompt_and_completion(example, tokenizer, thinking=thinking)
        prompt_ids, completion_ids = tokenizer(prompt)["input_ids"], tokenizer(completion)["input_ids"]
        yield Lesson(prompt_ids + completion_ids, len(prompt_ids))


def batches(stream: Iterator[Lesson], num_pooled: int = 32) -> Iterator[list[Lesson]]:
    """Batches of lessons of about one length, so that little of a batch is padding; lengths come in random order."""
    rng = random.Random(SEED)
    while True:
        pool = sorted(itertools.islice(stream, BATCH_SIZE * num_pooled), key=lambda lesson: len(lesson.ids))
        sorted_batches = [pool[i : i + BATCH_SIZE] for i in range(0, len(pool), BATCH_SIZE)]
        rng.shuffle(sorted_batches)
        yield from sorted_batches


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 small enough for git and for two CPU cores; heads of 32 suit vLLM's CPU attention."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def completion_loss(model: Qwen3ForCausalLM, batch: list[Lesson], pad_id: int) -> torch.Tensor:
    """Mean cross-entropy of the completions' tokens.

    Padding stands on the right, where causal attention never looks, so no mask is needed; the vocabulary's
    projection, dear in so small a model, is taken for completion tokens only.
    """
    longest = max(len(lesson.ids) for lesson in batch)
    ids = torch.tensor([lesson.ids + [pad_id] * (longest - len(lesson.ids)) for lesson in batch])
    positions = torch.arange(longest - 1)
    first = torch.tensor([lesson.prompt_length - 1 for lesson in batch]).unsqueeze(1)
    last = torch.tensor([len(lesson.ids) - 1 for lesson in batch]).unsqueeze(1)
    in_completion = (positions >= first) & (positions < last)
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[in_completion])
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][in_completion])


def learning_rate(step: int, num_steps: int) -> float:
    """Linear warm-up, then a cosine down to nothing."""
    warm_up = min(1.0, (step + 1) / NUM_WARMUP_STEPS)
    return LEARNING_RATE * warm_up * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def train(model: Qwen3ForCausalLM, stream: Iterator[list[Lesson]], num_steps: int, pad_id: int) -> None:
    """Fit `model` in place."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    model.train()
    started = time.monotonic()
    for step, batch in enumerate(itertools.islice(stream, num_steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps)
        loss = completion_loss(model, batch, pad_id)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == num_steps - 1:
            print(f"step {step}: loss {loss.item():.4f}, {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    """Build the tokenizer, train the model, and save both."""
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "model", help="the model's directory")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="optimizer steps")
    arguments = parser.parse_args()

    torch.manual_seed(SEED)
    torch.set_num_threads(NUM_THREADS)
    torch.use_deterministic_algorithms(True)

    demo = {
        identity(row) for splits in demo_splits().values() for rows in splits.values() for row in rows
    }
    examples = training_examples(SEED, demo)
    texts = []
    for example in itertools.islice(training_examples(SEED, demo), NUM_TOKENIZER_EXAMPLES):
        texts.append(f"{example.task.prompt(example.row)}\n{example.thought}\n{example.reply}")
    tokenizer = build_tokenizer(texts)
    model = build_model(tokenizer)
    print(f"{len(tokenizer)} tokens, {sum(p.numel() for p in model.parameters()):,} parameters")

    train(model, batches(lessons(tokenizer, examples)), arguments.steps, tokenizer.pad_token_id)

    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TEXT)],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.to(torch.bfloat16).save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    print(f"saved to {arguments.output}")


if __name__ == "__main__":
    main()
