# Drives the server that was started beside it, prints what it holds, and makes
# it end. SOCKET is the server's, COUNT the number of requests, COMMANDS a file.
cli() { redis-cli -s "$SOCKET" "$@"; }
for ((try = 0; try < 500; try++)); do
    [ "$(cli ping 2>/dev/null)" = PONG ] && break
    sleep 0.02
done
cli --pipe <"$COMMANDS" | grep -c 'errors: 0,'
cli debug digest
# The keys of redis-benchmark are random, so they are left out of the output.
bench() { redis-benchmark -s "$SOCKET" -q -c 8 -P 16 -n "$COUNT" "$@" >/dev/null 2>&1; }
bench -t set,get,incr,lpush,rpush,lpop,sadd,hset,zadd,mset -d 100 -r 20000
bench -t set -d 3000 -r 2000
cli hgetall h:7 | sort | tail -n 3
cli zrange z:3 0 5
cli shutdown nosave >/dev/null 2>&1
exit 0
