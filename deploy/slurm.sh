#!/bin/bash
# One run on several nodes of a Slurm cluster:
#   sbatch deploy/slurm.sh /data/photos --out /srv/tlcli/runs/photos
#SBATCH --job-name=tlcli
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
set -euo pipefail

port=$((6400 + SLURM_JOB_ID % 1000))
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
export RAY_USAGE_STATS_ENABLED=0

srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --node-ip-address="$address" --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" \
  --disable-usage-stats --block &
until ray health-check --address "$address:$port" 2> /dev/null; do sleep 2; done

# The other nodes. tlcli begins at once and uses each when it has joined.
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  srun --nodes="$((SLURM_JOB_NUM_NODES - 1))" --ntasks="$((SLURM_JOB_NUM_NODES - 1))" --exclude="$head" \
    ray start --address="$address:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
fi

# This script runs on the first node, which is part of the cluster. Slurm sends SIGTERM before the time is over: tlcli
# leaves a run that `tlcli finetune --resume` continues.
tlcli finetune "$@" --cluster "$address:$port" &
run=$!
trap 'kill -TERM "$run"' TERM
status=0
wait "$run" || status=$?
# The trap ends the first wait.
if [ "$status" -gt 128 ]; then wait "$run" || status=$?; fi
ray stop > /dev/null 2>&1 || true
exit "$status"
