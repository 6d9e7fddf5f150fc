# The checked configuration and the objects that the rules use; their code is in workflow/*.py.

import re
import sys

from snakemake.cli import parse_args
from snakemake.dag import DAG
from snakemake.shell import shell

from transfer.params.base import UPSAMPLING
from workflow.inputs import Inputs
from workflow.jobs import Captions, JobResources
from workflow.session import Session, errors_in_lines
from workflow.versions import Versions

with errors_in_lines():
    SESSION = Session(workflow, config)
    PARAMS = SESSION.params
    inputs = Inputs(PARAMS)

versions = Versions(PARAMS, inputs.archives)
captions = Captions(PARAMS)
needs = JobResources(PARAMS)

EXPERIMENT = PARAMS.experiment
SNAPSHOT = SESSION.snapshot
RAW_DIR = inputs.raw_dir

if prefix := SESSION.shell_prefix():
    shell.prefix(prefix)


async def _any_date(*_):
    """In place of Snakemake's check that outputs are newer than inputs: raw files may be dated in the future."""


DAG.check_output_mtime = _any_date


wildcard_constraints:
    experiment=re.escape(EXPERIMENT),
    dataset="|".join(PARAMS.all_datasets()),
    test_dataset="|".join(PARAMS.all_datasets()),
    recipe="|".join(PARAMS.all_recipes()),
    table="|".join(PARAMS.table_definitions),
    seed=r"\d+",
    search="|".join(PARAMS.searches) or "$^",
    worker=r"\d+",
    # $^ matches nothing, for experiments without searches, synthetic datasets, weights or downloads.
    archive="|".join(map(re.escape, inputs.synthetic)) or "$^",
    weights="|".join(inputs.weights) or "$^",
    tool="|".join(inputs.tools) or "$^",
    source_file="|".join(map(re.escape, inputs.downloads)) or "$^",
