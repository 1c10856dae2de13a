from . import conversion as conversion
from . import data as data
from . import embedding as embedding
from . import hub as hub
from . import losses as losses
from . import metrics as metrics
from . import models as models
from . import trainer as trainer
from .arguments.training_args import PaCoTrainingArguments as PaCoTrainingArguments
from .inference.pipeline import PaCoPipeline as PaCoPipeline
from .losses.functional import balanced_softmax_loss as balanced_softmax_loss
from .losses.functional import multitask_loss as multitask_loss
from .losses.functional import paco_loss as paco_loss
from .models.configuration_paco import PaCoConfig as PaCoConfig
from .models.modeling_contrastive import PaCoForContrastiveTraining as PaCoForContrastiveTraining
from .models.modeling_paco import PaCoForImageClassification as PaCoForImageClassification
from .models.modeling_paco import PaCoModel as PaCoModel
from .models.modeling_paco import PaCoPreTrainedModel as PaCoPreTrainedModel
from .trainer.paco_trainer import PaCoTrainer as PaCoTrainer

__version__: str
