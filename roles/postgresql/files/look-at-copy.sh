# look-at-copy.sh VERSION: what this host has of the database, as JSON: the identifier that its data has in common with all
# copies of it ("" without data), how many databases beside PostgreSQL's own are in it, whether it was a copy that follows
# another, and the identifier that the hosts have agreed on ("" before the first). ETCDCTL is the command of etcdctl.
set -eu
data=/var/lib/postgresql/$1/main
own= databases=0 follows=false
if [ -e "$data/global/pg_control" ]; then
  own=$(LC_ALL=C /usr/lib/postgresql/"$1"/bin/pg_controldata "$data" | sed -n 's/^Database system identifier: *//p')
  # Identifiers below 16384 are those of PostgreSQL's own databases.
  databases=$(ls "$data/base" | awk '$1 >= 16384 { found++ } END { print found + 0 }')
  [ ! -e "$data/standby.signal" ] || follows=true
fi
agreed=$($ETCDCTL get --print-value-only /service/metabuilder/initialize)
printf '{"own": "%s", "databases": %s, "follows": %s, "agreed": "%s"}\n' "$own" "$databases" "$follows" "$agreed"
