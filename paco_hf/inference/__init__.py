"""From a checkpoint and images to logits, predictions, features, and an index of images."""
