#!/usr/bin/env bash
# Constitutional AI: critique and revision, supervised learning, labels by principle, then a reward model and RL.
# The server must run: truing serve smollm2-135m-instruct --port 8765
# Two CPU cores, about four minutes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-runs/constitutional} url=${URL:-http://127.0.0.1:8765/v1} model=${MODEL:-smollm2-135m-instruct}
constitution=${CONSTITUTION:-$here/../../constitutions/example.toml}

# 1. The model answers red-team prompts, criticises and revises; helpful rows are half of the demonstrations.
truing constitution revise "$constitution" --model "$model" --endpoint "$url" --rounds 2 --temperature 0.7 \
  --max-tokens 64 --helpful "$here/helpful.jsonl" --helpful-share 0.5 --out "$out/revisions.jsonl"
# 2. SL-CAI.
truing train sft --model "$model" --data "$out/revisions.jsonl" --name sl-cai \
  output="$out" epochs=1 batch_size=8 learner.learning_rate=2e-5
sl=$(ls -d "$out"/sl-cai-* | tail -1)
# 3. SL-CAI writes pairs; the served model compares them by a principle drawn for each pair.
truing label "$here/prompts.jsonl" --model "$sl" --judge-model "$model" --judge-endpoint "$url" \
  --constitution "$constitution" --combine log_odds --max-tokens 48 --out "$out/pairs.jsonl"
# 4. The preference model, and RL against it; `truing train dpo --model "$sl" ...` is the short way.
truing train reward_model --model "$sl/train/model" --data "$out/pairs.jsonl" --name preference-model \
  output="$out" options.use_labels=true steps=3 batch_size=4
pm=$(ls -d "$out"/preference-model-* | tail -1)
truing train rloo --model "$sl/train/model" --data "$here/prompts.jsonl" --name rl-cai output="$out" \
  reward_model="$pm/train/model" steps=2 batch_size=4 sampler.group_size=4 sampler.max_tokens=48
