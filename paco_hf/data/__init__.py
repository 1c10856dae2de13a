"""Data: long-tailed selections, the data sets, and the augmented views."""

from .long_tail import class_counts, long_tailed_counts, long_tailed_indices, stratified_split

__all__ = ["class_counts", "long_tailed_counts", "long_tailed_indices", "stratified_split"]
