"""The module's former place: see [`paco_hf.inference.features`]."""

from .inference.features import Embeddings, check_output, embed_files, embed_split
from .inference.features import extract_features as features_of
from .trainer.class_centers import start_from_centers
