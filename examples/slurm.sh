#!/bin/bash
# normpipe in a SLURM queue: stops before its time limit and requeues itself until it is done.
#   sbatch --time=04:00:00 examples/slurm.sh run job.toml
#   sbatch --gres=gpu:1 examples/slurm.sh run job.toml --set normalize.device=cuda
#SBATCH --job-name=normpipe
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# SIGTERM to this script 120 s before the time limit: longer than run.grace_seconds (60).
# A preempted job has the partition's GraceTime instead, which must also be longer than that.
#SBATCH --signal=B:TERM@120

# At most this often: some causes of status 3 come back every time (too little memory). A job with
# quarantined shards ends with 2 and is not requeued.
RESTARTS=50

# normpipe counts the CPUs that it is bound to; not every SLURM binds jobs to the allocated ones.
settings=()
if [ "$1" = run ]; then
    settings=(--set "run.threads=${SLURM_CPUS_PER_TASK:-1}")
fi

signalled=
trap 'signalled=yes; kill -TERM "$!" 2>/dev/null' TERM
normpipe "$@" "${settings[@]}" &
child=$!
wait "$child"
status=$?
# A signal ends bash's wait, not normpipe: wait again for the status of normpipe itself.
while [ -n "$signalled" ]; do
    signalled=
    wait "$child"
    status=$?
done

# 3: stopped or incomplete, run it again. 143: the signal came before normpipe had started.
case $status in
3 | 143)
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "$RESTARTS" ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit "$status"
