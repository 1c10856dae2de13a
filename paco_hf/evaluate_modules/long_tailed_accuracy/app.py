"""The Space's widget. evaluate 0.4.6 builds it from `gradio.inputs` and `gradio.outputs`, gone since gradio 4."""

from pathlib import Path
from types import SimpleNamespace

import evaluate
import gradio
from evaluate.utils import launch_gradio_widget

# gradio 6 deprecates `col_count`; the headers say how many columns there are.
gradio.inputs = SimpleNamespace(Dataframe=lambda col_count, **settings: gradio.Dataframe(**settings))  # type: ignore[attr-defined]
gradio.outputs = SimpleNamespace(Textbox=gradio.Textbox)  # type: ignore[attr-defined]
script = Path(__file__).with_name("long_tailed_accuracy.py")
launch_gradio_widget(evaluate.load(str(script), class_counts=[500, 50, 5]))
