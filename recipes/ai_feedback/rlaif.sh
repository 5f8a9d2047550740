#!/usr/bin/env bash
# RLAIF: a served model writes pairs and labels them; a reward model and DPO learn from the soft labels.
# The server must run: truing serve smollm2-135m-instruct --port 8765
# Two CPU cores, about a minute.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-runs/rlaif} url=${URL:-http://127.0.0.1:8765/v1} model=${MODEL:-smollm2-135m-instruct}

truing label "$here/prompts.jsonl" --model "$model" --endpoint "$url" --temperature 1 --max-tokens 48 --combine log_odds \
  --out "$out/pairs.jsonl"
truing train reward_model --model "$model" --data "$out/pairs.jsonl" --name rlaif-reward-model \
  output="$out" options.use_labels=true steps=3 batch_size=4
truing train dpo --model "$model" --data "$out/pairs.jsonl" --name rlaif-dpo \
  output="$out" options.use_labels=true steps=3 batch_size=4 learner.learning_rate=1e-6
