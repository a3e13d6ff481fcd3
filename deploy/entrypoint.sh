#!/bin/sh
# Run flowbed with each secret as a variable: the file OPENAI_API_KEY in /run/secrets sets OPENAI_API_KEY.
set -eu
for file in "${SECRETS:-/run/secrets}"/[A-Z]*; do
    if [ -f "$file" ]; then
        export "$(basename "$file")=$(cat "$file")"
    fi
done
exec flowbed "$@"
