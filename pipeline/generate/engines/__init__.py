"""The seam between a replica and what generates, with two implementations: vLLM and an OpenAI-compatible server."""
