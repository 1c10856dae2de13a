from .from_reference import convert as convert
from .linear_classifier import linearize as linearize
from .reference_checkpoint import load_reference_checkpoint as load_reference_checkpoint
from .to_onnx import export_onnx as export_onnx
from .to_timm import export_timm as export_timm
