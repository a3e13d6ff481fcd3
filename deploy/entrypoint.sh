#!/bin/sh
# Run flowbed with each secret as a variable: the file OPENAI_API_KEY in /run/secrets sets OPENAI_API_KEY.
set -eu
for file in "${SECRETS:-/run/secrets}"/[A-Z]*; do
    if [ -f "$file" ]; then
        # By itself: a file that cannot be read ends the script only here, and its variable would be empty.
        value=$(cat "$file")
        export "$(basename "$file")=$value"
    fi
done
exec flowbed "$@"
