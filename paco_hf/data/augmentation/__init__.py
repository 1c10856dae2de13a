"""Augmented views: an image at a time on PIL images, or a batch at a time on tensors."""
