# join-etcd.sh NAME PEER_URL ENDPOINTS_OF_THE_OTHERS new|existing
# Makes this host, which has no data of etcd, one of the store: of a new one, or of the one that the others hold. There a
# member of its name, which has lost its data, is replaced. ETCDCTL is the command of etcdctl with its certificates.
set -eu
name=$1 url=$2 others=$3 state=$4
systemctl stop etcd.service 2>/dev/null || true
if [ "$state" = existing ]; then
  members=$($ETCDCTL --endpoints="$others" member list) || {
    echo "$name has no data of etcd, and the other members do not answer: see to them first (systemctl status etcd)" >&2
    exit 1
  }
  printf '%s\n' "$members" | while IFS=', ' read -r id _state its_name its_url _rest; do
    if [ "$its_name" = "$name" ] || [ "$its_url" = "$url" ] || [ "$its_name" = "$url" ]; then
      $ETCDCTL --endpoints="$others" member remove "$id"
    fi
  done
  $ETCDCTL --endpoints="$others" member add "$name" --peer-urls="$url" >/dev/null
fi
umask 022
echo "ETCD_INITIAL_CLUSTER_STATE=$state" > /etc/metabuilder/etcd-begin.env
systemctl daemon-reload
if [ "$state" = existing ]; then
  systemctl enable --quiet --now etcd.service
fi
