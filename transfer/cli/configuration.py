"""What the parameters are."""

import typer

from transfer.cli.options import ParamFiles, Values
from transfer.models.registry import check_models
from transfer.params import read as config
from transfer.sources import table as sources
from transfer.utils.files import write_text

app = typer.Typer()


@app.command()
def params(files: ParamFiles = None, values: Values = None) -> None:
    """Check the parameters. Reads: parameter files. Writes: the resolved configuration on stdout."""
    import yaml

    resolved = config.load(files or (), values or (), checks=[check_models]).model_dump(mode="json", exclude_none=True)
    print(yaml.safe_dump(resolved, sort_keys=False), end="")


@app.command()
def schema() -> None:
    """Write the JSON schemas of the parameters and of the sources. Writes: params/schema.json,
    params/sources.schema.json."""
    write_text(config.SCHEMA, config.schema_text())
    sources.write_schema()
