"""optuna-dashboard on the studies of an experiment."""

import sys

import optuna
from optuna_dashboard import run_server

from transfer.layout import Layout
from transfer.params import Params
from transfer.search.storage import store_of
from transfer.utils.errors import UserError


def serve(params: Params, layout: Layout, port: int) -> None:
    """Show the studies of the experiment's storage at 127.0.0.1 until interrupted.

    Raises UserError if there is no study yet, the storage cannot be used, or the port is taken.
    """
    store = store_of(params, layout)
    nothing = UserError(f"search_storage {store.shown}: no study yet; make one with snakemake search")
    if store.file and not store.file.exists():
        raise nothing
    storage = store.open()
    with store.errors():
        names = optuna.get_all_study_names(storage)
    if not names:
        raise nothing
    print(f"{len(names)} studies at http://127.0.0.1:{port}/ (Ctrl-C ends)", file=sys.stderr)
    try:
        run_server(storage, host="127.0.0.1", port=port)
    except OSError as error:
        raise UserError(f"port {port}: {error.strerror}; choose another one with --port") from None
