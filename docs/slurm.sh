#!/bin/bash
# Eight shards as a Slurm array, on as many machines. The same line again goes on with what is unfinished:
#     sbatch docs/slurm.sh /shared/pictures --rpm 1000
#     compact assemble run --out release --version 1.0.0
#SBATCH --array=1-8 --time=12:00:00 --signal=INT@300
home=run/shard-$SLURM_ARRAY_TASK_ID-of-8 disk=$(mktemp -d)         # a journal needs its machine's own disk
mkdir -p "$home" && rm -rf "$home.new" && cp -r "$home/." "$disk"  # what an earlier job has done
srun compact generate "$@" --out "$disk" --shard "$SLURM_ARRAY_TASK_ID/8"
status=$?
cp -r "$disk" "$home.new" && rm -r "$home" "$disk" && mv "$home.new" "$home" && exit $status
