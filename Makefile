# make table1   set up .venv, run the workflow on the demo, print results/table1.md
# make test     set up .venv, run the linters and all tests
# make faults   kills, full disks, hostile inputs: half an hour, for a nightly run; writes a table into docs/reliability.md
# make leaderboard  make the pages of the leaderboard: results/leaderboard/index.html
# make docs     build the documentation and serve it at http://127.0.0.1:8000
# make pull     fetch the files that DVC stores for this commit, so that nothing is left to do (docs/dvc.md)
# make dashboard  show the search studies at http://127.0.0.1:8080/; ARGS="--port 9000" for another port
# make mlflow   show the runs: http://127.0.0.1:5000 (there choose "Model training", once)
# make clean    remove the results of the experiment demo, except its prepared data; asks first; EXPERIMENT=paper for another
# make prune    remove what no table needs; asks first; ARGS="--params params/paper.yaml" for another experiment
# Further options of snakemake: make table1 ARGS="--configfile params/paper.yaml --config raw_dir=/data/fer"

.PHONY: table1 leaderboard docs pull dashboard dry-run mlflow lint test faults clean prune clean-env
.DEFAULT_GOAL := table1

VENV := .venv
ARGS ?=
EXPERIMENT ?= demo
# The commands of .venv come first on PATH; whatever environment is active outside stays as it is.
RUN := env -u PYTHONHOME -u PYTHONPATH -u PYTHONDONTWRITEBYTECODE VIRTUAL_ENV="$(CURDIR)/$(VENV)" PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
PIP := $(RUN) python -m pip install --quiet --disable-pip-version-check
# No telemetry, and none of the processes that only MLflow's pages for language models need.
MLFLOW := MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
# Ctrl-C in the first second, in which Snakemake is loaded, would show a page of traceback. A line that Python runs first.
CTRL_C := 'import sys; sys.excepthook = (lambda kind, *error: print("stopped", file=sys.stderr) if kind is \
    KeyboardInterrupt else sys.__excepthook__(kind, *error)) if "".join(sys.orig_argv[1:2]).endswith("/snakemake") \
    else sys.excepthook'

$(VENV)/installed: requirements.lock pyproject.toml
	@for python in python3.13 python3.12 python3.11 python3; do \
	    if "$$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	        echo "Setting up $(VENV) with $$("$$python" --version): this takes a few minutes, once"; \
	        exec "$$python" -m venv --clear $(VENV); \
	    fi; \
	done; \
	echo "error: no Python >= 3.11 with venv on PATH (tried python3.13, python3.12, python3.11, python3)" >&2; exit 1
	$(PIP) -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@printf '%s\n' $(CTRL_C) > "$$($(RUN) python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ctrl_c.pth"
	@touch $@

table1: $(VENV)/installed
	$(RUN) snakemake --cores all --use-conda results/table1.csv $(ARGS)
	@cat results/table1.md

leaderboard: $(VENV)/installed
	$(RUN) snakemake --cores all --use-conda leaderboard $(ARGS)

docs: $(VENV)/installed
	$(RUN) zensical serve --dev-addr 127.0.0.1:8000 $(ARGS)

pull: $(VENV)/installed
	$(RUN) dvc pull
	@$(RUN) dvc status --quiet || { echo "error: code, parameters or data are not those of dvc.lock, so Snakemake has to" \
	    "decide: see dvc status, then run snakemake or dvc repro" >&2; exit 1; }
	$(RUN) snakemake tables search --cores 1 --touch --forceall --quiet all $(ARGS)

dashboard: $(VENV)/installed
	$(RUN) optuna-dashboard results/demo/search/journal.log --host 127.0.0.1 $(ARGS)

dry-run: $(VENV)/installed
	$(RUN) snakemake --dry-run results/table1.csv $(ARGS)

mlflow: $(VENV)/installed
	@echo 'http://127.0.0.1:5000/#/experiments?workflowType=machine_learning'
	$(RUN) $(MLFLOW) mlflow ui --host 127.0.0.1 --workers 1 --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" $(ARGS)

clean:
	@case "$(EXPERIMENT)" in "" | published | . | .. | */*) false;; *) test -d "results/$(EXPERIMENT)";; esac || \
	    { echo "error: results/$(EXPERIMENT): no such experiment" >&2; exit 1; }
	@mkdir -p .snakemake; exec 9<> .snakemake/running; ! command -v flock > /dev/null || flock --nonblock 9 || \
	    { echo "error: a workflow is running in this folder; wait until it ends, or stop it" >&2; exit 1; }; \
	set --; for path in results/$(EXPERIMENT)/*; do \
	    case "$$path" in */data | */chain | */params.yaml) ;; *) set -- "$$@" "$$path";; esac; done; \
	if grep -qs "^$(EXPERIMENT)," results/table1.csv; then set -- "$$@" results/table1.csv results/table1.md; fi; \
	test $$# -gt 0 || { echo "nothing to remove"; exit 0; }; \
	du -shc -- "$$@"; printf 'Remove these? [y/N] '; read -r answer; \
	if [ "$$answer" = y ]; then rm -rf -- "$$@"; else echo "nothing was removed"; fi

prune: $(VENV)/installed
	$(RUN) python -m transfer prune $(ARGS)

lint: $(VENV)/installed
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) snakefmt --check Snakefile workflow
	$(RUN) mypy
	$(RUN) snakemake --lint

test: lint
	$(RUN) pytest --numprocesses auto --dist loadfile $(ARGS)

faults: $(VENV)/installed
	$(RUN) PYTHONPATH=tests:tests/faults python tests/faults/campaign.py $(ARGS)
	$(RUN) pytest tests/faults/test_names.py --hypothesis-profile nightly

clean-env:
	rm -rf $(VENV)
