"""The page of `paco-hf demo`."""
