"""The commands one after another, each in a process of its own, as a user runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from interrupted_runs import final_tensors, kill_when
from user_data import folders


@pytest.mark.slow
def test_train_kill_resume_evaluate_predict_export(tmp_path: Path) -> None:
    photos = folders(tmp_path / "photos", {"many": 40, "medium": 20, "few": 6}, size=(40, 36))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def start(*arguments: object, **options: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "paco_hf", *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True)

    def run(*arguments: object) -> str:
        process = start(*arguments)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return out

    settings = ["--dataset", photos, "--loss", "paco", "--backbone", "test_resnet", "--image_size", "64"]
    settings += ["--num_train_epochs", "6", "--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2"]
    settings += ["--save_total_limit", "9"]
    run("train", *settings, "--output_dir", "whole")
    checkpoint = tmp_path / "killed" / "checkpoint-3"
    kill_when(start("train", *settings, "--output_dir", "killed"), lambda: checkpoint.is_dir())
    assert not (tmp_path / "killed" / "metrics.json").exists()
    run("train", *settings, "--output_dir", "killed", "--resume")
    whole, resumed = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "killed")
    assert all(tensor.equal(resumed[name]) for name, tensor in whole.items())

    assert "top-1" in run("evaluate", "killed")
    answers = json.loads(run("predict", "killed", photos / "few", "--json"))
    assert len(answers) == 6
    assert {answer["label"] for answer in answers} <= {"many", "medium", "few"}
    for form in ("timm", "onnx"):
        run("export", "killed", form, "--to", form)
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(images).numpy()
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert np.abs(found - expected).max() < 1e-4
