#!/usr/bin/env bash
# Two ranks against two runs of one process, at the same time on the same two cores: tokens a second of phase 1, phase 2
# (the reference's pass included) and sampling. Wanted: at least 0.9 of what the two runs reach together.
#
#   tests/benchmarks/ranks.sh STUDENT DEMONSTRATIONS PREFERENCES [it dpo sample]     cores 0 and 1 free of all else
#
# Each of the independent runs does a whole step's 32 rows; the ranks share a step's.
set -eu
cd "$(dirname "$0")/../.."
student=$1; demonstrations=$2; preferences=$3; shift 3; phases=${*:-it dpo sample}
python=${PYTHON:-.venv/bin/python}
scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TQDM_DISABLE=1
export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=67108864
cat > "$scratch/pinned.py" <<'PY'  # torchrun pins nothing: each rank takes the core of its number
import os, runpy, sys
os.sched_setaffinity(0, {int(os.environ.get("LOCAL_RANK", os.environ.get("CORE", 0)))})
sys.path.insert(0, os.getcwd())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
PY
common=(--student "$student" --batch-size 32 --chat-template none --validation-fraction 0)
first=(train_it.py "${common[@]}" --demonstrations "$demonstrations" --keep all --lora-rank 16 --lora-alpha 32 --lora-dropout 0)
second=(train_dpo.py "${common[@]}" --adapter "$scratch/adapter")
"$python" "${first[@]}" --learning-rate 1e-3 --warmup-ratio 0 --max-steps 1 --output "$scratch/adapter" > /dev/null
run() {  # STARTER... OUTPUT: the phase's command, and when sampling began
    local output=${*: -1}
    ( while [ ! -e "$output/answers.jsonl" ]; do sleep 0.1; [ -d "$scratch" ] || exit; done; date +%s.%N > "$output.born" ) &
    local watch=$!
    case $phase in
    it) "${@:1:$#-1}" "${first[@]}" --epochs 2 --output "$output" ;;
    dpo) "${@:1:$#-1}" "${second[@]}" --preferences "$preferences" --epochs 1 --output "$output" ;;
    sample) "${@:1:$#-1}" "${second[@]}" --demonstrations "$demonstrations" --keep all --max-new-tokens 128 \
        --sampling-batch-size 16 --answers-per-prompt 2 --max-steps 1 --output "$output" ;;
    esac > "$output.said" 2>&1 || { tail -5 "$output.said" >&2; exit 1; }
    kill "$watch" 2> /dev/null || true
}
rate() {  # of a finished run: of its steps but the first and its reference's pass, or of its answers
    "$python" - "$phase" "$1" <<'PY'
import json, sys
from pathlib import Path
phase, folder = sys.argv[1], Path(sys.argv[2])
if phase == "sample":
    answers = [json.loads(line) for line in (folder / "answers.jsonl").open()]
    seconds = (folder / "preferences.jsonl").stat().st_mtime - float(Path(f"{folder}.born").read_text())
    print(sum(len(row["ids"]) + row["ended"] for row in answers) / seconds)
else:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    steps = [row for row in rows if row.get("tokens")]
    reference = sum(row.get("reference_seconds", 0) for row in rows) * len(steps[1:]) / len(steps)
    print(sum(row["tokens"] for row in steps[1:]) / (sum(row["seconds"] for row in steps[1:]) + reference))
PY
}
for phase in $phases; do
    CORE=0 run "$python" "$scratch/pinned.py" "$scratch/$phase-0" & one=$!
    CORE=1 run "$python" "$scratch/pinned.py" "$scratch/$phase-1" & two=$!
    wait "$one"; wait "$two"
    run "$python" -m torch.distributed.run --standalone --nproc-per-node 2 "$scratch/pinned.py" "$scratch/$phase-both"
    printf '%s: alone %.0f + %.0f, two ranks %.0f tokens/s\n' \
        "$phase" "$(rate "$scratch/$phase-0")" "$(rate "$scratch/$phase-1")" "$(rate "$scratch/$phase-both")"
done
