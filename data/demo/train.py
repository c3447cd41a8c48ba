"""Trains the demo model: a Qwen3 of half a million parameters which answers the demo's kinds of questions.

In: endless examples from `generate.py`, never a row of the demo's own splits. Out: `data/demo/model/`, a
directory that transformers and vLLM load. Loss is taken on the completion alone. The same machine, library
versions and number of threads give the same bits.

Try: python data/demo/train.py --steps 20 --output /tmp/demo-model
"""

# ruff: noqa: S311  (seeded draws for batches, nothing secret)
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
# One thread: sums keep their order whatever the machine's cores, and a core that others use now and then does not
# stall its twin. Two were somewhat faster on idle cores and several times slower on busy ones.
NUM_THREADS = 1
NUM_STEPS = 2000
NUM_WARMUP_STEPS = 50
BATCH_SIZE = 16
LEARNING_RATE = 5e-3
MATRIX_LEARNING_RATE = 0.02
NO_THINKING_SHARE = 0.1
NUM_TOKENIZER_EXAMPLES = 3000


@dataclass(frozen=True, slots=True)
class Lesson:
    """Token ids of a prompt and its completion; the loss begins at `prompt_length`."""

    ids: list[int]
    prompt_length: int


def taught_examples() -> Iterator[Example]:
    """Make the endless examples the model is trained on; raises should one be a row of the demo."""
    demo = {identity(row) for splits in demo_splits().values() for rows in splits.values() for row in rows}
    for example in training_examples(SEED, held_out=demo):
        assert identity(example.row) not in demo, f"row of the demo among the training rows: {example.row}"
        yield example


def prompt_and_completion(example: Example, tokenizer: PreTrainedTokenizerFast, *, thinking: bool) -> tuple[str, str]:
    """Render the text the model will see in a run, and the text it should go on with."""
    messages = [{"role": "user", "content": example.task.prompt(example.row)}]
    prompt = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    thought = f"{example.thought}</think>\n\n" if thinking else ""
    return prompt, f"{thought}{example.reply}{TURN_END}"


def lessons(tokenizer: PreTrainedTokenizerFast, examples: Iterator[Example]) -> Iterator[Lesson]:
    """Turn examples into token ids; in a small share of them the thought is left out."""
    rng = random.Random(SEED)
    for example in examples:
        thinking = rng.random() >= NO_THINKING_SHARE
        prompt, completion = prompt_and_completion(example, tokenizer, thinking=thinking)
        prompt_ids, completion_ids = tokenizer(prompt)["input_ids"], tokenizer(completion)["input_ids"]
        yield Lesson(prompt_ids + completion_ids, len(prompt_ids))


def batches(stream: Iterator[Lesson], num_pooled: int = 4) -> Iterator[list[Lesson]]:
    """Batch lessons of about one length, so that little of a batch is padding; the lengths alternate."""
    rng = random.Random(SEED)
    while True:
        pool = sorted(itertools.islice(stream, BATCH_SIZE * num_pooled), key=lambda lesson: len(lesson.ids))
        sorted_batches = [pool[i : i + BATCH_SIZE] for i in range(0, len(pool), BATCH_SIZE)]
        rng.shuffle(sorted_batches)
        yield from sorted_batches


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Make a Qwen3 small enough for git and two CPU cores; heads of 32 suit vLLM's CPU attention."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def completion_loss(model: Qwen3ForCausalLM, batch: list[Lesson], pad_id: int) -> torch.Tensor:
    """Take the mean cross-entropy of the completions' tokens.

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


def rate_factor(step: int, num_steps: int) -> float:
    """Rise linearly, then fall as a cosine down to nothing."""
    warm_up = min(1.0, (step + 1) / NUM_WARMUP_STEPS)
    return warm_up * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def train(model: Qwen3ForCausalLM, stream: Iterator[list[Lesson]], num_steps: int, pad_id: int) -> None:
    """Fit `model` in place.

    Muon takes the layers' matrices: copying a number from the prompt, on which every thought depends, is
    learnt in fewer steps than with AdamW alone.
    """
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    optimizers = (
        torch.optim.Muon(matrices, lr=MATRIX_LEARNING_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    )
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: rate_factor(step, num_steps)) for o in optimizers]
    model.train()
    started = time.monotonic()
    for step, batch in enumerate(itertools.islice(stream, num_steps)):
        loss = completion_loss(model, batch, pad_id)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
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

    tokenizer = build_tokenizer(
        f"{example.task.prompt(example.row)}\n{example.thought}\n{example.reply}"
        for example in itertools.islice(taught_examples(), NUM_TOKENIZER_EXAMPLES)
    )
    model = build_model(tokenizer)
    print(f"{len(tokenizer)} tokens, {sum(p.numel() for p in model.parameters()):,} parameters")

    train(model, batches(lessons(tokenizer, taught_examples())), arguments.steps, tokenizer.pad_token_id)

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
