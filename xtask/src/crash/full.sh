#!/bin/sh
# full.sh KV: three nodes fill the file systems that `power.sh make` has mounted below $CRASH_DIR/data. Writes must then be refused
# and reads answered; room is made, and both must go on; all nodes are killed, and everything acknowledged must be there.
set -eu
kv="$1"
data="$CRASH_DIR/data"
servers=127.0.0.1:8700,127.0.0.2:8700,127.0.0.3:8700
pids=""

fail() {
    echo "full disk: $1" >&2
    exit 1
}

start() {
    pids=""
    for slot in 1 2 3; do
        "$kv" serve --config "$CRASH_DIR/full$slot.toml" 2>>"$CRASH_DIR/full$slot.log" &
        pids="$pids $!"
    done
}

end() {
    for pid in $pids; do
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
}
trap end EXIT

# Tries again for a while: nodes start, elect, fill.
until_it() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || return 1
        sleep 0.2
    done
}

put() {
    "$kv" set "$1" "$2" --servers "$servers" --deadline 2s
}

refused() {
    if put probe x; then return 1; else return 0; fi
}

for slot in 1 2 3; do
    {
        printf 'cluster = "full"\nslot = %s\ndata_dir = "%s"\n' "$slot" "$data/node$slot/log"
        # No snapshot may make room: that is not what is tried here.
        printf '[disk]\nfile_bytes = "4MiB"\nfiles = 64\nsnapshot_every_bytes = "1GiB"\n'
        for member in 1 2 3; do
            printf '[[member]]\nslot = %s\nclient = "127.0.0.%s:8700"\npeer = "127.0.0.%s:8800"\n' "$member" "$member" "$member"
        done
    } >"$CRASH_DIR/full$slot.toml"
    fallocate -l 24M "$data/node$slot/ballast"
done

start
until_it "$kv" init --config "$CRASH_DIR/full1.toml" || fail "the cluster does not form"
until_it put before yes || fail "a new cluster takes no write"
# More than there is room for; in the end most of it is refused.
rounds=0
until refused; do
    rounds=$((rounds + 1))
    [ "$rounds" -le 20 ] || fail "full disks go on taking writes"
    "$kv" bench --servers "$servers" --op put --value 16384 --outstanding 32 --seconds 2 >>"$CRASH_DIR/full-bench.log" 2>&1 || true
done
status_says_full() {
    "$kv" status --servers "$servers" >"$CRASH_DIR/full-status.log"
    grep -q "disk is full" "$CRASH_DIR/full-status.log"
}
until_it status_says_full || fail "the status does not say that a disk is full"
before_is_there() {
    "$kv" get before --servers "$servers" --deadline 2s | grep -q yes
}
until_it before_is_there || fail "full disks keep reads from being answered"
for slot in 1 2 3; do
    kill -0 "$(echo "$pids" | cut -d' ' -f$((slot + 1)))" || fail "node $slot has ended at its full disk"
    rm "$data/node$slot/ballast"
done
until_it put after yes || fail "writes are refused although there is room"
end
start
until_it "$kv" get after --servers "$servers" --deadline 2s || fail "the nodes do not come back"
for key in before after; do
    "$kv" get "$key" --servers "$servers" --deadline 2s | grep -q yes || fail "$key is lost"
done
echo "full disk: writes refused, reads answered, both again with room, nothing lost"
