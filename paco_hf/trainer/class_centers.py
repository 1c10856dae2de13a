"""Class centers that start from the means of features."""

import numpy as np
import torch
import torch.nn.functional as F

from ..evaluation.temperature import fit_temperature, representative_rows
from ..inference.features import Embeddings
from ..models.modeling_paco import PaCoForImageClassification


def start_from_centers(model: PaCoForImageClassification, embeddings: Embeddings, source: str) -> str:
    """Set the classifier to recognize classes by their nearest center, and train from there.

    With centers `m_c` and their mean `m` the logits are those of Gaussians of one spherical covariance:
    `w_c = (m_c - m) / T`, `b_c = (|m|^2 - |m_c|^2) / 2T`, balanced. `T` is fitted on the embeddings where they are of
    labeled images, and such that logits vary by 1 where they are the centers themselves.

    A cosine classifier takes the means of features of length 1, themselves scaled to that length.

    Args:
        model (`PaCoForImageClassification`): its classifier is changed.
        embeddings ([`Embeddings`]): of labeled images, whose class means are the centers; or, without labels, the
            centers: one row a class.
        source (`str`): what they are, for messages.

    Returns:
        what was done, for the user to read.

    Raises:
        ValueError: the width is not the backbone's, a class has no image, or there is not one row a class.
    """
    features, labels = torch.from_numpy(embeddings.features).double(), embeddings.labels
    cosine = model.config.classifier == "cosine"
    classes, width = model.classifier.weight.shape
    if features.shape[1] != width:
        raise ValueError(
            f"{source} has features of width {features.shape[1]}, but {model.config.backbone!r} has width "
            f"{width}: create the file with this backbone"
        )
    names, expected = embeddings.class_names, [model.config.id2label[label] for label in range(classes)]
    if names is not None and names != expected:
        pairs = (pair for pair in zip(names, expected, strict=False) if pair[0] != pair[1])
        theirs, ours = next(pairs, (len(names), classes))
        raise ValueError(
            f"{source} has different classes than the data, the first is {theirs!r} instead of {ours!r}: create "
            "the file from this data"
        )
    if cosine:
        features = F.normalize(features, dim=1)
    if labels is None:
        if len(features) != classes:
            raise ValueError(
                f"{source} has {len(features)} rows without labels, but there are {classes} classes: use one row "
                "per class, in class order, or add labels"
            )
        centers = features
    else:
        present = np.bincount(labels[(labels >= 0) & (labels < classes)], minlength=classes)
        if labels.min() < 0 or labels.max() >= classes or present.min() == 0:
            raise ValueError(
                f"{source} must have images of each of the {classes} classes and no others, but has none of class "
                f"{int(present.argmin())}, or labels out of range"
            )
        index = torch.from_numpy(labels)
        centers = torch.zeros(classes, width, dtype=torch.float64).index_add_(0, index, features)
        centers /= torch.from_numpy(present)[:, None]
    means = "given" if labels is None else f"the means of {len(features):,} embeddings"
    if cosine:
        with torch.no_grad():
            model.classifier.weight.copy_(F.normalize(centers, dim=1).float())
        return f"class centers: {means} ({source}), scaled to length 1"
    middle = centers.mean(0)
    weight, bias = centers - middle, ((middle**2).sum() - (centers**2).sum(1)) / 2
    # Of half a million images of thousands of classes no memory holds all logits.
    rows = slice(None) if labels is None else representative_rows(labels, classes)
    logits = features[rows] @ weight.T + bias
    temperature = float(logits.std()) or 1.0
    if labels is not None:
        # What it is good for is order of magnitude; logits of one size lie in the range that the fit searches.
        temperature *= fit_temperature((logits / temperature).numpy(), labels[rows])
    with torch.no_grad():
        model.classifier.weight.copy_((weight / temperature).float())
        model.classifier.bias.copy_((bias / temperature).float())
    return f"class centers: {means} ({source}), divided by {temperature:.3g}"
