"""The generate room: prompts/ in, completions/ out. The only room that knows Ray and an engine."""
