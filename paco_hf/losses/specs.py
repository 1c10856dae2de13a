"""The losses: what each is called and which settings it has."""

METHODS = {
    "paco": "PaCo",
    "gpaco": "GPaCo",
    "multitask": "GPaCo's multi-task variant",
    "gpaco_single": "GPaCo with one view",
    "balanced_softmax": "balanced softmax",
    "ce": "cross-entropy",
}

# What only a contrastive loss has.
CONTRASTIVE_SETTINGS = [
    "key_view",
    "alpha",
    "beta",
    "gamma",
    "temperature",
    "queue_size",
    "projection_dim",
    "key_momentum",
]
