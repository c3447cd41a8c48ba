"""Before a run: the prompts it would send, of which model, and what is wrong with its settings; no engine starts."""
