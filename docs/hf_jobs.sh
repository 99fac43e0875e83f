#!/bin/bash
# Generates four shards of a run as Jobs on the Hub, and collects them in a bucket. Running the same command again resumes
# unfinished shards:
#     hf buckets create me/runs --private
#     GEMINI_API_KEY=... HF_TOKEN=... docs/hf_jobs.sh IMAGE hf://buckets/me/runs hf://datasets/me/images@COMMIT --rpm 1000
#     hf buckets sync hf://buckets/me/runs run && compact assemble run --out release --version 1.0.0
# IMAGE is a Docker image with this package. The keys are passed as secrets, by name.
image=$1 runs=$2
arguments=$(printf '%q ' "${@:3}")
for i in 1 2 3 4; do
    hf jobs run --detach --timeout 12h --secrets GEMINI_API_KEY --secrets HF_TOKEN "$image" bash -c "
        hf buckets sync $runs/shard-$i-of-4 /tmp/run
        timeout --foreground --signal INT 11h compact generate $arguments --out /tmp/run --shard $i/4
        status=\$?
        hf buckets sync --delete /tmp/run $runs/shard-$i-of-4 && exit \$status"
done
