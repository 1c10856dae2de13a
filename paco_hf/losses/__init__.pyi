from .functional import LossTerms as LossTerms
from .functional import balanced_softmax_loss as balanced_softmax_loss
from .functional import log_class_prior as log_class_prior
from .functional import multitask_loss as multitask_loss
from .functional import paco_loss as paco_loss
from .modules import ClassificationLoss as ClassificationLoss
from .modules import ContrastiveLoss as ContrastiveLoss
