#!/usr/bin/env bash
# Self-rewarding: a model scores its own answers to word problems and learns from best and worst (DPO). A
# verifier watches and trains nothing. A short imitation comes first, so that there are answers to judge.
# Two CPU cores, about ten minutes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-runs/self_rewarding} model=${MODEL:-smollm2-135m-instruct}
mkdir -p "$out"
python - "$out" <<'PY'
import json, sys
from truing.data.word_problems import rows

def write(name, **options):
    with open(f"{sys.argv[1]}/{name}.jsonl", "w") as file:
        file.writelines(json.dumps(r) + "\n" for r in rows(max_number=12, max_factor=5, **options))

write("worked", count=160, seed=1, worked=True)
write("prompts", count=24, seed=2)
write("held_out", count=40, seed=1000, split="test")
PY
truing train sft --model "$model" --data "$out/worked.jsonl" --name imitate \
  output="$out" epochs=1 batch_size=16 learner.learning_rate=5e-5
truing self-reward "$out/prompts.jsonl" --model "$(ls -d "$out"/imitate-* | tail -1)" --out "$out/rounds" \
  --rounds 2 -n 4 --max-tokens 64 --by digit --verifier math_answer --held-out "$out/held_out.jsonl" \
  batch_size=4 learner.learning_rate=5e-6
