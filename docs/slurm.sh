#!/bin/bash
# Generates eight shards of a run as a Slurm array. Running the same command again resumes unfinished shards:
#     sbatch docs/slurm.sh /shared/images --rpm 1000
#     compact assemble run --out release --version 1.0.0
#SBATCH --array=1-8 --time=12:00:00 --signal=INT@300
home=run/shard-$SLURM_ARRAY_TASK_ID-of-8 disk=$(mktemp -d)         # the journal has to be on a local disk
mkdir -p "$home" && rm -rf "$home.new" && cp -r "$home/." "$disk"  # copy the results of an earlier job
srun compact generate "$@" --out "$disk" --shard "$SLURM_ARRAY_TASK_ID/8"
status=$?
cp -r "$disk" "$home.new" && rm -r "$home" "$disk" && mv "$home.new" "$home" && exit $status
