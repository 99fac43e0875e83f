# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
r"""Trains a recipe as a Job on the Hub and publishes the model. Running the same command again resumes the training:

    hf buckets create me/tuning --private
    hf jobs uv run --flavor a100-large --secrets HF_TOKEN --timeout 12h --volume hf://buckets/me/tuning:/tuning \
        --env COMPACT_HF=git+https://github.com/org/compact_hf docs/tune_on_hf_jobs.py llava15-7b-lora-1gpu me/student \
        --model_name_or_path me/llava-v1.5-7b-pretrained --dataset_name me/compact@v1.0.0

COMPACT_HF is the URL of a Git repository or a wheel of this package; by default it is installed from PyPI. Arguments
after the recipe and the adapter's repository replace settings of the recipe. Without the bucket, checkpoints are lost
when the Job ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXTRAS = {"qlora": "qlora", "zero3": "deepspeed"}  # part of a recipe's name -> the extra that it needs
BUCKET = Path("/tuning")  # where the bucket is mounted


def main(recipe: str, repository: str, *settings: str) -> int:
    """Train and publish. Return the exit status of the command that failed, or 0 (3: running the Job again resumes)."""
    extras = ",".join(["tune", *(extra for word, extra in EXTRAS.items() if word in recipe)])
    source = os.environ.get("COMPACT_HF")
    package = f"compact_hf[{extras}]" + (f" @ {source}" if source else "")
    compact = ["uv", "tool", "run", "--from", package, "compact"]
    out = str((BUCKET if BUCKET.is_dir() else Path.cwd()) / repository.rpartition("/")[2])
    for command in (["tune", recipe, "--output_dir", out, *settings], ["publish", out, repository]):
        status = subprocess.run([*compact, *command], check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: tune_on_hf_jobs.py RECIPE ORG/NAME [--setting value ...]")
    sys.exit(main(*sys.argv[1:]))
