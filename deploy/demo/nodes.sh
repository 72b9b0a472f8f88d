# The second half of the demo with MODE=nodes: a part of `run`, which has set everything up.
# shellcheck shell=bash disable=SC2154 # set there

say "The login, as Secret demo in pullpass-system; and the registry, for every namespace:"
fill "$here/registry-for-nodes.yaml.in" | tee >(sed 's/^/     /' >&2) | kubectl apply -f - >/dev/null
until_true 60 "the node to hold the credential" kubectl wait --for=condition=NodesReady registries.pullpass.dev/demo --timeout=1s
show kubectl --namespace pullpass-nodes get npa -o wide

title "7. What a team does: a namespace and a Deployment, without any pull secret"
kubectl delete namespace team-blue --ignore-not-found --wait --timeout=60s >/dev/null
kubectl create namespace team-blue >/dev/null
fill "$here/deployment.yaml.in" | kubectl --namespace team-blue apply -f - >/dev/null
say "A kubelet that has found no credential before goes on without one for up to five minutes."
# and it tries again at growing intervals of at most five minutes
until_true 660 "the pod in team-blue to run" kubectl --namespace team-blue wait --for=condition=Available deployment/private-app --timeout=1s
say "running $((SECONDS - started)) s after the start of this demo."
show kubectl --namespace team-blue get pods
say "The pod names no pull secret, and the namespace holds none:"
show kubectl --namespace team-blue get pods -o jsonpath='{.items[*].spec.imagePullSecrets}'
show kubectl --namespace team-blue get secrets,pullaccesses

title "Try by hand"
cat <<HANDS
   export KUBECONFIG=$KUBECONFIG PATH=$(dirname "$("$cluster" tool kubectl)"):\$PATH
   kubectl get preg -o wide                                # how the registry stands
   kubectl -n pullpass-nodes get npa -o yaml               # what the node holds
   kubectl delete preg demo                                # the node's entry goes, and nothing else of its file
   make demo-down                                          # the cluster goes, without a trace
HANDS
