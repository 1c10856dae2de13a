from .paco_trainer import PaCoTrainer as PaCoTrainer
