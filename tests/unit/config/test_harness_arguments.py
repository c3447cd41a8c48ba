"""The engine, the logs, the submission form and the replay use the same generation arguments."""

from __future__ import annotations

from dataclasses import replace

from builders import settings

from pipeline.config.harness_arguments import harness_arguments, sampling


def test_greedy_decoding_ignores_the_sampling_keys() -> None:
    generation = replace(settings().generation, do_sample=False, temperature=0.7, top_p=0.9, top_k=20)
    assert sampling(generation) == {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
    assert list(harness_arguments(generation)) == ["do_sample", "until", "max_gen_toks"]


def test_sampling_uses_the_sampling_keys() -> None:
    generation = replace(settings().generation, do_sample=True, temperature=0.7, top_p=0.9, top_k=20, until=("\n",))
    assert sampling(generation) == {"temperature": 0.7, "top_p": 0.9, "top_k": 20}
    assert harness_arguments(generation) == {
        "do_sample": True,
        "until": ["\n"],
        "max_gen_toks": generation.max_gen_toks,
        **sampling(generation),
    }
