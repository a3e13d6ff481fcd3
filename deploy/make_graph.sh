#!/bin/sh
# make_graph.sh FLOWBED MODEL: embed one text, so that the graph of a local model is in FLOWBED_MODEL_CACHE.
set -eu
flowbed=$1
export FLOWBED_MODEL="$2"
project=$(mktemp -d)
trap 'rm -r "$project"' EXIT
echo 'A text, so that there is something to embed.' > "$project/a.txt"
"$flowbed" init "$project" > /dev/null
"$flowbed" add texts files "$project/a.txt" --config "$project/flowbed.toml" > /dev/null
"$flowbed" run --yes --config "$project/flowbed.toml" > /dev/null
