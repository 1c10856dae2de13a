from .errors import hub_errors as hub_errors
from .errors import hub_file as hub_file
from .upload import check_no_paths as check_no_paths
from .upload import full_name as full_name
from .upload import make_repo as make_repo
from .upload import push as push
from .upload import push_trainer as push_trainer
from .upload import stage_model as stage_model
