"""An OpenAI-compatible server of a chat model over the embedded sampler."""
