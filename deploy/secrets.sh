#!/bin/sh
# Make the secrets that compose.yaml names, in the folder secrets beside it; those that are there stay.
set -eu
cd "$(dirname "$0")"
# The containers' user reads the files, so they are closed to other users by the folder.
mkdir -p secrets
chmod 700 secrets
umask 022

make() {
    if [ ! -e "secrets/$1" ]; then
        printf %s "$2" > "secrets/$1"
    fi
}

random() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

make LEDGER_PASSWORD "$(random)"
make AWS_ACCESS_KEY_ID "$(random)"
make AWS_SECRET_ACCESS_KEY "$(random)"
make OPENAI_API_KEY ""
make FLOWBED_LEDGER "postgresql://flowbed:$(cat secrets/LEDGER_PASSWORD)@ledger/flowbed"
make store.json "{\"identities\": [{\"name\": \"flowbed\", \"credentials\": [{\"accessKey\": \"$(cat secrets/AWS_ACCESS_KEY_ID)\", \"secretKey\": \"$(cat secrets/AWS_SECRET_ACCESS_KEY)\"}], \"actions\": [\"Admin\"]}]}"
