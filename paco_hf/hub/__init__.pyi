from .errors import hub_errors as hub_errors
from .errors import hub_file as hub_file
from .upload import push as push
from .upload import push_trainer as push_trainer
