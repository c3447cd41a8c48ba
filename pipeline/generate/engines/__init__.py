"""The engines behind one interface: vLLM, and an OpenAI-compatible server."""
