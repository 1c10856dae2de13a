"""The table of the losses: all that the package knows of each. It loads no torch, so that help texts are made of it.

A new loss is its formula and one entry: `LOSSES["mine"] = LossSpec(name="mine", title="Mine", formula="module:name")`.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

DEFAULT_LOSS = "paco"

# The training settings that a formula may take, and what it calls them.
FORMULA_SETTINGS = {
    **{name: name for name in ("alpha", "beta", "gamma", "temperature", "supervised_temperature")},
    "label_smoothing_factor": "label_smoothing",
}


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """Definition of a loss: its formula and what it needs.

    A formula is called with the class logits `(B, C)` and the labels `(B,)`. A contrastive formula is called with the
    features, as a pair of the rows of the batch `(N - K, D)` and of the queue `(K, D)`, with the labels of all rows
    `(N,)`, and with the class logits `(n, C)` of the anchors, which are the first `n` rows. Keyword arguments are
    `class_counts`, if there is a class prior, and the `settings`. A formula returns a scalar.

    Args:
        name (`str`): value of `--loss`.
        title (`str`): its name in cards and comparisons.
        formula (`str`): path of the function, as `"package.module:function"`.
        description (`str`, *optional*, defaults to `"trained with {title}"`): text of the card after "An image
            classifier with 20 classes, "; `{title}` is replaced with the title.
        views (`int`, *optional*, defaults to `1`): augmented views of an image, 1 or 2.
        contrastive (`bool`, *optional*, defaults to `False`): whether it contrasts features, which needs a
            projector.
        key_encoder (`bool`, *optional*, defaults to `False`): whether a moving average of the model encodes the second
            view.
        projector (`str`, *optional*, defaults to `"mlp3-relu"`): the projector of `--projector auto`.
        vit_projector (`str`, *optional*): the projector on a ViT, if different.
        anchors (`str`, *optional*, defaults to `"query"`): rows that have class logits and are anchors, the `"query"`
            rows (`n = B`), or those of all `"views"`.
        enqueues (`str`, *optional*): features that the queue takes, `"key"` or `"query"`; `None` where there is none.
        prior (`str`, *optional*, defaults to `"none"`): whether the formula takes `class_counts`: `"required"`,
            `"optional"` (`--class_prior false` leaves them out) or `"none"`.
        settings (`tuple[str, ...]`, *optional*): training settings that the formula takes, under the names in
            `FORMULA_SETTINGS`. One that is `None` keeps the formula's default.
        return_terms (`bool`, *optional*, defaults to `False`): the formula takes `return_terms=True`, and then returns
            [`LossTerms`], which are logged.
        alpha_per_positive (`bool`, *optional*, defaults to `False`): `alpha` is the weight of each positive row, so
            that the automatic settings choose it.
        reference (`str`, *optional*): method of the reference implementation whose files are of this loss, `"paco"` or
            `"gpaco"`.
        ignores (`frozenset[str]`, *optional*): settings that make no difference. What follows from the other fields
            (`key_momentum` without key encoder, ...) is added.

    Raises:
        ValueError: fields that contradict each other.
    """

    name: str
    title: str
    formula: str
    description: str = "trained with {title}"
    views: Literal[1, 2] = 1
    contrastive: bool = False
    key_encoder: bool = False
    projector: str = "mlp3-relu"
    vit_projector: str | None = None
    anchors: Literal["query", "views"] = "query"
    enqueues: Literal["key", "query"] | None = None
    prior: Literal["required", "optional", "none"] = "none"
    settings: tuple[str, ...] = ()
    return_terms: bool = False
    alpha_per_positive: bool = False
    reference: Literal["paco", "gpaco"] | None = None
    ignores: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.contrastive and (self.views == 2 or self.enqueues):
            raise ValueError(f"loss {self.name!r}: two views and a queue need contrastive=True")
        if self.views == 1 and (self.key_encoder or self.enqueues == "key"):
            raise ValueError(f"loss {self.name!r}: keys are features of the second view, so they need views=2")
        if self.key_encoder and self.anchors == "views":
            raise ValueError(f"loss {self.name!r}: a key encoder returns no class logits, so it needs anchors='query'")
        unused = {
            **{name: name not in self.settings for name in FORMULA_SETTINGS},
            **dict.fromkeys(("projector", "projection_dim", "gather_batch"), not self.contrastive),
            "key_view": self.views == 1,
            "key_momentum": not self.key_encoder,
            "queue_size": self.enqueues is None,
            "class_prior": self.prior == "none",
        }
        object.__setattr__(self, "ignores", self.ignores.union(name for name, is_so in unused.items() if is_so))

    def formula_settings(self, args: Any) -> dict[str, Any]:
        """Keyword arguments of the formula, from training arguments."""
        values = {FORMULA_SETTINGS.get(name, name): getattr(args, name) for name in self.settings}
        return {name: value for name, value in values.items() if value is not None}


_PACO = LossSpec(
    name="paco",
    title="PaCo",
    formula="paco_hf.losses.functional:paco_loss",
    description="for long-tailed data, trained with {title} (parametric contrastive learning): supervised contrastive "
    "learning with learnable class centers, which are the classifier's weights",
    views=2,
    contrastive=True,
    key_encoder=True,
    projector="mlp2-bn",
    enqueues="key",
    prior="optional",
    settings=tuple(FORMULA_SETTINGS),
    return_terms=True,
    alpha_per_positive=True,
    reference="paco",
)
# The views share one encoder.
_GPACO = replace(
    _PACO,
    name="gpaco",
    title="GPaCo",
    key_encoder=False,
    projector="mlp3-relu",
    vit_projector="mlp3-gelu",
    anchors="views",
    reference="gpaco",
)
_MULTITASK = replace(
    _GPACO,
    name="multitask",
    title="GPaCo's multi-task variant",
    formula="paco_hf.losses.functional:multitask_loss",
    settings=("alpha", "temperature", "label_smoothing_factor"),
    alpha_per_positive=False,
)
_GPACO_SINGLE = replace(
    _GPACO, name="gpaco_single", title="GPaCo with one view", views=1, anchors="query", enqueues="query"
)
_BALANCED_SOFTMAX = LossSpec(
    name="balanced_softmax",
    title="balanced softmax",
    formula="paco_hf.losses.functional:balanced_softmax_loss",
    description="trained with {title}, the baseline with the class frequencies in the softmax",
    prior="required",
    settings=("label_smoothing_factor",),
)
_CE = replace(
    _BALANCED_SOFTMAX,
    name="ce",
    title="cross-entropy",
    formula="paco_hf.losses.functional:cross_entropy_loss",
    description="trained with {title}, the baseline",
    prior="none",
)

# The losses by the value of `--loss`, each a [`LossSpec`]. A new loss is a new entry.
LOSSES = {spec.name: spec for spec in (_PACO, _GPACO, _MULTITASK, _GPACO_SINGLE, _BALANCED_SOFTMAX, _CE)}


def loss_spec(name: str) -> LossSpec:
    """Look up a loss in `LOSSES`.

    Raises:
        ValueError: there is no loss of this name.
    """
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}")
    return LOSSES[name]
