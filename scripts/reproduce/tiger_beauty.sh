#!/usr/bin/env bash
# TIGER's table for Amazon Beauty (arXiv 2305.05065, table 1): data, ids, training, and the table, beside what one would
# pick instead. Stop it and run it again: it goes on where it was.
#
#   bash scripts/reproduce/tiger_beauty.sh DATA OUT [STEPS]      DATA: items.jsonl, sequences.txt and embeddings.npy, or
#                                                                reviews_Beauty_5.json.gz and meta_Beauty.json.gz
#   bash scripts/reproduce/tiger_beauty.sh --smoke OUT           the whole way on a made-up shop, in minutes
#
# SEEDS ("0 1 2") and IDS ("rq_vae residual_kmeans random", files of gin_configs/ablations) choose what is trained;
# RECIPE (runs/tiger.gin) how. genret is the one of PATH, or of $GENRET.
set -euo pipefail
SEEDS=${SEEDS:-0 1 2} IDS=${IDS:-rq_vae residual_kmeans random} RECIPE=${RECIPE:-runs/tiger.gin}
genret() { "${GENRET:-genret}" "$@"; }

if [ "${1:-}" = --smoke ]; then
  [ $# = 2 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
  OUT=$2 STEPS=150 SEEDS=0 DATA=$2/data
  mkdir -p "$OUT"
  [ -d "$DATA" ] || genret corpus toy-items --users 100 --out "$DATA"
  smaller() {
    local -A codes=([rq_vae]="RqVae.codebook=16 --gin.RqVae.epochs=100" [residual_kmeans]=ResidualKMeans.codebook=16
      [random]=RandomDocids.codebook=16 [lsh]=LshDocids.hyperplanes=4)
    # 16 codes tell most of 120 items apart, and one layer learns what follows what. Histories of one length, and users
    # that fit into a batch, make every search the same program: compiling takes most of the time here.
    echo "--gin.${codes[$1]} --gin.T5Config.num_encoder_layers=1 --gin.T5Config.num_decoder_layers=1" \
      "--gin.T5Config.d_ff=128 --gin.HistoryConfig.items=2 --gin.TrainerConfig.evaluate_every=75"
  }
else
  { [ $# = 2 ] || [ $# = 3 ]; } || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
  DATA=$1 OUT=$2 STEPS=${3:-3000}
  smaller() { :; }
  mkdir -p "$OUT"
  if [ -f "$DATA/reviews_Beauty_5.json.gz" ]; then
    [ -d "$OUT/data" ] || genret corpus amazon --reviews "$DATA/reviews_Beauty_5.json.gz" \
      --metadata "$DATA/meta_Beauty.json.gz" --out "$OUT/data"
    DATA=$OUT/data
  fi
  # The tuned recipe on Beauty: 7 steps a second measured on the CPU, and reckoned by arithmetic for the others.
  echo "A run of $STEPS steps takes about $((STEPS / 400)) min on 2 CPU cores (at 7 steps a second), $((STEPS / 4000 + 1)) min" \
    "on a GPU (estimated); there are $(echo "$SEEDS" | wc -w) x $(echo "$IDS" | wc -w) of them, and SASRec's two."
fi

runs=()
for ids in $IDS; do
  echo "== ids: $ids, seeds: $SEEDS"
  # shellcheck disable=SC2046,SC2086
  genret train --gin-file "$RECIPE" --gin-file "ablations/ids_$ids.gin" --corpus "$DATA" --run "$OUT/$ids" \
    --steps "$STEPS" --seeds $SEEDS $(smaller "$ids")
  runs+=(--run "$OUT/$ids")
done
# Published tables leave out what a user has had, or do not say; in Beauty nobody takes an item twice.
echo "== evaluation, what a user has had left out"
genret evaluate "${runs[@]}" --sasrec --exclude-history --out "$OUT/report"
echo "== evaluation, nothing left out"
genret evaluate "${runs[@]}" --sasrec --out "$OUT/report-history-kept"
