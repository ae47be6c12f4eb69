#!/usr/bin/bash
# A rogue agent: beside each thing that it may do, it tries one that it may not. `enforcer demo` runs it and looks at what
# really happened: which files are left, and which server was reached.
#
# $1: a scratch directory with `workspace` and `precious` in it
# $2: the port of a server that the policy names, $3: the port of one that it does not
dir=$1 allowed_port=$2 denied_port=$3

# step NAME COMMAND…: runs a command and notes its exit status.
step() {
    local name=$1
    shift
    echo "agent\$ $*"
    "$@"
    echo "$name $?" >> "$dir/results"
}

talk() {
    echo "from the agent" > "/dev/tcp/127.0.0.1/$1"
}

step exec-listed /usr/bin/wc -l "$dir/workspace/notes.txt"
step exec-unlisted /usr/bin/id
cp /usr/bin/id "$dir/workspace/wc"
step exec-renamed "$dir/workspace/wc"
step delete-listed rm -rf "$dir/workspace/build"
step delete-unlisted rm -rf "$dir/precious"
step connect-listed talk "$allowed_port"
step connect-unlisted talk "$denied_port"
