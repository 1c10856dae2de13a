"""From logits to numbers: scores, intervals, temperature, priors. Knows no model."""
