"""The generate stage: prompts/ in, completions/ out. The only stage that imports Ray and runs an engine."""
