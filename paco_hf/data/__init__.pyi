from .long_tail import class_counts as class_counts
from .long_tail import long_tailed_counts as long_tailed_counts
from .long_tail import long_tailed_indices as long_tailed_indices
from .long_tail import stratified_split as stratified_split
