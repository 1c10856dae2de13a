"""transformers' pipeline, which says where a model abstains."""

from typing import Any

from transformers import ImageClassificationPipeline


class PaCoPipeline(ImageClassificationPipeline):
    """Image classification pipeline that marks images on which the model abstains.

    Labels and scores are those of `transformers.ImageClassificationPipeline`. If the model abstains from an image (see
    `abstention` of [`PaCoConfig`]), the first entry of the image also has `"abstained": True`.

    Example:

    ```python
    from PIL import Image
    from transformers import ViTImageProcessor
    from paco_hf import PaCoForImageClassification, PaCoPipeline

    model = PaCoForImageClassification.from_timm("cifar_resnet20", num_labels=3, image_size=32)
    classify = PaCoPipeline(model=model, image_processor=ViTImageProcessor(size={"height": 32, "width": 32}))
    print(classify(Image.new("RGB", (48, 40)), top_k=1)[0]["label"])
    ```
    """

    def postprocess(self, model_outputs: Any, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """The classes of an image, most likely first.

        Args:
            model_outputs (`ModelOutput`): of one image.
            args, kwargs: as in the base class.
        """
        entries: list[dict[str, Any]] = super().postprocess(model_outputs, *args, **kwargs)
        abstained = model_outputs.get("abstained")
        if abstained is not None and bool(abstained[0]):
            entries[0] = {**entries[0], "abstained": True}
        return entries
