"""The OpenAI-compatible HTTP server: `rustllm serve`."""
