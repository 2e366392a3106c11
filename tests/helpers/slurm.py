"""Programs in place of SLURM's, by which submitit runs a job on this machine as if it had two nodes."""

from pathlib import Path

#: Runs the script of a job in the background, and again while it has been requeued.
_SBATCH = """#!/bin/bash
cp "$1" {folder}/script
(
    export SLURM_JOB_ID=7
    bash "$1"
    while rm {folder}/requeued; do bash "$1"; done
) >> {folder}/job.log 2>&1 &
echo Submitted batch job 7
"""
#: Starts a task on each node, with output files of its own.
_SRUN = """#!/bin/bash
while [ "$1" != "${{1#--}}" ]; do
    case $1 in
        --output) output=$2; shift ;;
        --error) error=$2; shift ;;
    esac
    shift
done
export SLURM_NTASKS=2 SLURM_JOB_NUM_NODES=2 SLURM_JOB_NODELIST=localhost,other SLURM_LOCALID=0
for task in 0 1; do
    out=${{output//%t/$task}} err=${{error//%t/$task}}
    SLURM_PROCID=$task SLURM_NODEID=$task "$@" >> "${{out//%j/7}}" 2>> "${{err//%j/7}}" &
done
wait
"""
_SCONTROL = """#!/bin/bash
echo "$@" >> {folder}/scontrol.log
[ "$*" != "requeue 7" ] || touch {folder}/requeued
"""
_SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
echo "7|RUNNING|localhost"
"""


def make_slurm(folder: Path) -> Path:
    """Returns a folder with the programs, which belongs into PATH. They write into its parent."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in (("sbatch", _SBATCH), ("srun", _SRUN), ("scontrol", _SCONTROL), ("sacct", _SACCT)):
        (programs / name).write_text(text.format(folder=folder))
        (programs / name).chmod(0o755)
    return programs
