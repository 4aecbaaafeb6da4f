#!/bin/sh
# Greets once a second and counts. Needs nothing but a POSIX shell.
#
# SIGHUP reads greeting.conf again and keeps the count; SIGINT and SIGTERM end it.

greeting=Hello
name=world

load() {
    while IFS='=' read -r key value || [ -n "$key" ]; do
        case $key in
            greeting) greeting=$value ;;
            name) name=$value ;;
            '' | '#'*) ;;
            *) echo "greeter: greeting.conf: unknown key '$key'" >&2 ;;
        esac
    done <greeting.conf
}

stop() {
    kill "$pause" 2>/dev/null
    echo "greeter: stopped at $count"
    exit 0
}

count=0
pause=
trap load HUP
trap stop INT TERM

load
echo "greeter: started (pid $$)"
while :; do
    count=$((count + 1))
    echo "$count: $greeting, $name"
    # Waited for in the background, because a trap runs at once only while the shell waits.
    sleep 1 &
    pause=$!
    wait "$pause"
done
