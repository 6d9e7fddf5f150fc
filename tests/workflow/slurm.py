"""A SLURM cluster of one node for a test: its own munge key, ports and folder, and processes that end with it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Debian puts the servers where only root looks.
_PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")

# More processors and memory than there may be, since the profile asks for what runs on a GPU need; two GPUs that
# are none. A job of the partition urgent pre-empts those of main; a requeued job waits until its credential is void.
# Jobs are remembered for longer than the tests take.
_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=10
MinJobAge=3600
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=node NodeHostname=node NodeAddr=127.0.0.1 CPUs=16 RealMemory=100000 Gres=gpu:2
PartitionName=main Nodes=node Default=YES PriorityTier=1
PartitionName=urgent Nodes=node PriorityTier=2 PreemptMode=OFF
"""
_GPUS = "Name=gpu File=/dev/zero\nName=gpu File=/dev/full\n"
# The plugin for Snakemake starts srun without SLURM_CONF, and relies on a file in /etc.
_SRUN = '#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {srun} "$@"\n'


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    absent = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
    return f"not installed: {', '.join(absent)} (Debian: slurm-wlm, munge)" if absent else ""


class Cluster:
    """Made by ``start``, ended by ``remove``."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm"))
        self.processes: list[subprocess.Popen[bytes]] = []
        for name in ("state", "spool", "munge", "bin"):
            (self.folder / name).mkdir(mode=0o700 if name == "munge" else 0o755)
        self.folder.chmod(0o755)
        key = self.folder / "munge/key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            ports = {"controller_port": one.getsockname()[1], "node_port": other.getsockname()[1]}
        host = socket.gethostname().partition(".")[0]
        text = _CONFIGURATION.format(folder=self.folder, host=host, user=Path("/proc/self").owner(), **ports)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(_GPUS)
        srun = self.folder / "bin/srun"
        srun.write_text(_SRUN.format(folder=self.folder, srun=shutil.which("srun", path=_PATH)))
        srun.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to speak to this cluster, beside its own PATH."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def _start(self, program: str, *arguments: str) -> None:
        command = [shutil.which(program, path=_PATH), *arguments]
        log = open(self.folder / f"{program}.log", "wb")  # noqa: SIM115
        # Away from the terminal's signals; jobs get the environment of who submits them, not this one.
        environment = os.environ | self.environment
        self.processes.append(
            subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        )

    def start(self) -> None:
        """Start it, and wait until its node takes jobs."""
        munge = {name: self.folder / "munge" / name for name in ("key", "pid", "log", "seed")}
        options = [f"--{name}-file={path}" for name, path in munge.items()]
        self._start("munged", "--foreground", f"--socket={self.folder}/munge.sock", *options)
        self._wait(lambda: (self.folder / "munge.sock").exists())
        self._start("slurmctld", "-D", "-f", f"{self.folder}/slurm.conf")
        self._start("slurmd", "-D", "-N", "node", "-f", f"{self.folder}/slurm.conf")
        self._wait(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T", check=False))

    def _wait(self, ready) -> None:
        end = time.monotonic() + 120
        while not ready():
            logs = "\n".join(file.read_text(errors="replace")[-3000:] for file in self.folder.glob("*.log"))
            assert time.monotonic() < end and all(process.poll() is None for process in self.processes), logs
            time.sleep(0.1)

    def run(self, *command: str, check: bool = True) -> str:
        """Stdout of one of SLURM's commands."""
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def jobs(self, name: str) -> dict[int, str]:
        """The state of the jobs whose comment, rule and wildcards, holds ``name``, by their number."""
        lines = self.run("squeue", "--states=all", "--noheader", "--format=%i|%T|%k").splitlines()
        found = (line.split("|") for line in lines if name in line.split("|")[2])
        return {int(number): state for number, state, _ in found}

    def job(self, number: int) -> dict[str, str]:
        """What SLURM says about a job."""
        fields = self.run("scontrol", "--oneliner", "show", "job", str(number)).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def remove(self) -> None:
        """End its jobs and its processes, and remove its files."""
        if len(self.processes) == 3:
            self.run("scancel", f"--user={Path('/proc/self').owner()}", check=False)
            end = time.monotonic() + 60
            while self.run("squeue", "--noheader", check=False).strip() and time.monotonic() < end:
                time.sleep(0.1)
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                print(f"{process.args[0]} did not end", file=sys.stderr)
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
