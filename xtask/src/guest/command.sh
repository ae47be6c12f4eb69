# Becomes the command: its words, and its environment, come NUL-separated, so that any byte survives.
while IFS= read -r -d '' variable; do export "$variable"; done </.vm/environment
mapfile -d '' -t words </.vm/words
unset variable _
cd /root || exit 125
exec "${words[@]}"
