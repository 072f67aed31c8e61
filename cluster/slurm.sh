#!/bin/bash
# A scan as a Slurm job: one Ray over all nodes of the allocation, and the scan on the first of them.
#   ray get-auth-token --generate               # once: the token, in ~/.ray/auth_token, which all nodes must see
#   sbatch cluster/slurm.sh JOB.yaml [--set FIELD=VALUE ..]
# The job's run directory is on a file system that all nodes see. Whoever is requeued goes on where it was.
# Change what is marked CHANGE.
#SBATCH --job-name=raymia
#SBATCH --nodes=4                # CHANGE
#SBATCH --gpus-per-node=4        # CHANGE: as many replicas a node
#SBATCH --cpus-per-task=32       # CHANGE: 4 or more a GPU, for decoding
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --exclusive                # a node's Ray is started and stopped with the job
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
if (($# == 0)); then
    echo "slurm.sh: give a job: sbatch cluster/slurm.sh JOB.yaml" >&2
    exit 2
fi
read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
read -r host _ < <(getent hosts "$first")
address="$host:${RAYMIA_RAY_PORT:-6379}"
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token} RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
# Each node starts its part of the cluster; the first runs the scan, and all end with its exit code.
exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --include-dashboard=false \
    -- env RAY_ADDRESS="$address" raymia scan "$@"
