"""What of `transformers.Trainer` is overridden, what a trainer leaves alone, and what it writes."""

import copy
import dataclasses

import pytest
import torch
from distributed_worker import Images
from tiny_trainer import make_model, make_trainer
from transformers import Trainer

from paco_hf import PaCoTrainer, PaCoTrainingArguments
from paco_hf.runs.folder import list_checkpoints
from paco_hf.runs.output_folder import clear_checkpoint
from paco_hf.trainer.saving import PRIVATE_OVERRIDES, CheckpointingTrainer

ADDED = set(PaCoTrainer.__mro__) - set(Trainer.__mro__)


def test_private_overrides_are_listed_and_few() -> None:
    private = {name for cls in ADDED for name in vars(cls) if name.startswith("_") and not name.startswith("__")}
    assert {name for name in private if hasattr(Trainer, name)} == PRIVATE_OVERRIDES.keys()
    assert PRIVATE_OVERRIDES.keys() <= vars(CheckpointingTrainer).keys()
    assert len(PRIVATE_OVERRIDES) <= 6
    assert all(PRIVATE_OVERRIDES.values())


def test_private_attributes_of_transformers_are_there(tmp_path) -> None:
    trainer = make_trainer(tmp_path, loss="ce")
    assert vars(trainer)["_created_lr_scheduler"] is False
    taken = vars(Trainer(make_model(), trainer.args)).keys()
    assert not {"adapted", "staging", "resumed_step", "updates_per_epoch", "loss", "loss_parts"} & taken


@pytest.mark.parametrize("loss", ["paco", "ce"])
def test_the_constructor_leaves_arguments_and_configuration_alone(tmp_path, loss: str) -> None:
    model = make_model("cifar_resnet20")
    # No workers, as a trainer alone has none where the data choose; and nothing to evaluate on.
    args = PaCoTrainingArguments(
        output_dir=str(tmp_path), loss=loss, max_steps=2, precision="fp32", queue_size=20, projection_dim=16,
        per_device_train_batch_size=8, save_strategy="no", dataloader_num_workers=-1, eval_strategy="epoch",
    )  # fmt: skip
    before = copy.deepcopy(dataclasses.asdict(args)), model.config.to_dict(), copy.deepcopy(model.state_dict())
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        trainer = PaCoTrainer(model, args, train_dataset=Images(16))
        assert trainer.args.eval_strategy == "no"
        # transformers notes there whether past states are cached, which there are none of.
        changed = {k: v for k, v in model.config.to_dict().items() if k != "use_cache"}
        assert (dataclasses.asdict(args), changed) == before[:2]
        assert all(torch.equal(tensor, before[2][name]) for name, tensor in model.state_dict().items())
        states.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
    # What is drawn is a function of the seed alone.
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    trainer.train()
    assert model.config.balanced_logits == (loss == "paco")
    assert dataclasses.asdict(args) == before[0]


def test_equal_states_are_equal_files(tmp_path) -> None:
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.01}
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        make_trainer(folder, **settings).train()
    for name in ("model.safetensors", "paco_training_state.safetensors"):
        a, b = ((folder / "checkpoint-2" / name).read_bytes() for folder in folders)
        assert a == b, name


def test_files_of_a_checkpoint_are_read_before_training(tmp_path) -> None:
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    make_trainer(tmp_path, **settings).train()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        file = tmp_path / "checkpoint-2" / name
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        again = make_trainer(tmp_path, **settings)
        with pytest.raises(OSError, match=rf"checkpoint-2/{name} cannot be read"):
            again.train(resume_from_checkpoint=True)
        assert again.optimizer is None
        file.write_bytes(content)
    again.train(resume_from_checkpoint=True)


def test_what_a_run_did_not_write_stays_beside_its_checkpoints(tmp_path) -> None:
    settings = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    own = {"checkpoint-3/extra.txt": "mine", "checkpoint-99/notes.txt": "mine"}
    for name, content in own.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
    (tmp_path / "checkpoint-3" / "optimizer.pt").write_text("of an earlier run")
    make_trainer(tmp_path, **settings).train()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-3"]
    assert {name: (tmp_path / name).read_text() for name in own} == own
    make_trainer(tmp_path, **settings).train(resume_from_checkpoint=True)
    with pytest.MonkeyPatch.context() as patch:  # killed as it removes the old one
        patch.setattr("paco_hf.trainer.saving.shutil.rmtree", lambda *args, **kwargs: None)
        (tmp_path / "checkpoint-2").mkdir()
        (tmp_path / "checkpoint-2" / "trainer_state.json").write_text("{}")
        make_trainer(tmp_path, **settings).remove_old_checkpoints()
    assert not (tmp_path / "checkpoint-2").exists()
    # All files of a checkpoint are known.
    clear_checkpoint(tmp_path / "checkpoint-3")
    assert [path.name for path in (tmp_path / "checkpoint-3").iterdir()] == ["extra.txt"]
