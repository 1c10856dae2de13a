"""A step of training does not wait for the GPU, but where it logs."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from synchronization import Transfers, Waits
from tiny_trainer import make_model
from torch import Tensor
from transformers import TrainerCallback

from paco_hf import PaCoForContrastiveTraining, PaCoTrainer, PaCoTrainingArguments
from paco_hf.data.augmentation.batched_transforms import BatchedView, BatchedViews
from paco_hf.data.torch_datasets import WholeImages
from paco_hf.losses.modules import LossModule

VIEWS = BatchedViews([BatchedView(name, 32) for name in ("cifar_reg", "cifar_sim")], [0.5] * 3, [0.2] * 3)


@pytest.mark.parametrize(
    "operation",
    [
        lambda values: values[0].item(),
        lambda values: bool(values[0]),
        lambda values: values.tolist(),
        lambda values: values.numpy(),
        lambda values: np.asarray(values),
        lambda values: values.cpu(),
        lambda values: values.nonzero(),
        lambda values: torch.where(values > 0),
        lambda values: values[values > 0],
        lambda values: values.masked_select(values > 0),
        lambda values: values.unique(),
        lambda values: torch.equal(values, values),
    ],
)
def test_what_waits_is_counted(operation) -> None:
    values = torch.ones(3)
    with Waits() as waits:
        operation(values)
        assert not values.is_cpu
    assert waits.found
    assert all("test_synchronization.py:" in place for place in waits.found)
    assert values.is_cpu
    operation(values)  # and is no more
    assert len(waits.found) < 3


class ByStep(TrainerCallback):
    """The waits of each step with its data, from the end of the one before it on."""

    def __init__(self, waits: Waits) -> None:
        self.waits, self.steps, self.logs = waits, [], []

    def _taken(self) -> list[str]:
        found = self.waits.found[:]
        self.waits.found.clear()
        return found

    def on_step_end(self, *args, **kwargs) -> None:
        self.steps.append(self._taken())

    def on_log(self, *args, **kwargs) -> None:
        self.logs.append(self._taken())


@pytest.mark.parametrize("loss", ["paco", "gpaco", "ce"])
def test_a_step_waits_only_where_it_logs(loss: str, tmp_path) -> None:
    pixels = torch.randint(256, (48, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    waits = Waits()
    steps = ByStep(waits)
    args = PaCoTrainingArguments(
        str(tmp_path),
        loss=loss,
        per_device_train_batch_size=8,
        precision="fp32",
        save_strategy="no",
        max_steps=6,
        queue_size=32,
        projection_dim=16,
        logging_strategy="steps",
        logging_steps=3,
        disable_tqdm=True,
    )
    trainer = PaCoTrainer(
        make_model("test_resnet"),
        args,
        batched_views=VIEWS,
        train_dataset=WholeImages(pixels.numpy(), [i % 5 for i in range(48)]),
        callbacks=[steps],
    )
    with waits:
        trainer.train()
    assert len(steps.steps) == 6
    assert steps.steps[1:] == [[]] * 5
    # The loss of transformers' trainer, and the parts of ours together. In the end it takes its loss once more.
    parts = 0 if loss == "ce" else 1
    assert [len(found) for found in steps.logs[:2]] == [1 + parts] * 2, steps.logs


def test_a_step_stays_on_its_device(monkeypatch) -> None:
    """On "meta" an operation that needs a value is an error; here, what would be copied to a GPU or from it."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # which "meta" does not have
    model = PaCoForContrastiveTraining.from_classifier(make_model("test_resnet"), queue_size=32, projection_dim=16)
    model.to("meta").train()
    loss = LossModule("paco", [9, 7, 5, 3, 2], alpha=0.05, temperature=0.2).to("meta")
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    pairs = model.key_and_query_parameters()

    def step() -> Tensor:
        batch = {
            "pixel_values": torch.empty(8, 3, 32, 32, dtype=torch.uint8, device="meta"),
            "view_seed": torch.empty(8, dtype=torch.int64, device="meta"),
            "labels": torch.empty(8, dtype=torch.int64, device="meta"),
        }
        batch = VIEWS(batch)
        total = loss.outputs_loss(model(**batch, return_dict=True), batch["labels"]).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_key_encoder(pairs)
        return total

    step()  # tables move once
    with Transfers() as transfers:
        assert step().device.type == "meta"
    assert transfers.found == []
    with pytest.raises(RuntimeError, match="meta"):
        step().item()
    with Transfers() as transfers:
        torch.ones(3).to("meta")
    assert transfers.found
