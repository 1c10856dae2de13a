"""transformers' pipeline, which says where a model abstains."""

from typing import Any

from transformers import ImageClassificationPipeline


class PaCoPipeline(ImageClassificationPipeline):
    """`pipeline("image-classification", model=..., pipeline_class=PaCoPipeline)`.

    As transformers' own: labels and scores stay. Where the configuration's `abstention` would have the model not
    answer, the first entry of an image has `"abstained": True`.
    """

    def postprocess(self, model_outputs: Any, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """The classes of an image, likeliest first.

        Args:
            model_outputs (`ModelOutput`): of one image.
            args, kwargs: as in the base class.
        """
        entries: list[dict[str, Any]] = super().postprocess(model_outputs, *args, **kwargs)
        abstained = model_outputs.get("abstained")
        if abstained is not None and bool(abstained[0]):
            entries[0] = {**entries[0], "abstained": True}
        return entries
