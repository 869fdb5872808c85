#!/usr/bin/env bash
# Labels of a finished experiment of AWS FIS, as POST /feedback takes them: for each node that an action hit, the time in which it did.
#   k8s/chaos/fis-labels.sh EXPERIMENT_ID | curl -H 'Content-Type: application/json' --data @- http://localhost:8080/feedback
# It needs aws, kubectl (by which it learns the nodes' names) and jq. A host that is no node of the cluster is named by its instance's id,
# as Prometheus names it.
set -euo pipefail

if [[ $# -ne 1 ]]; then
  echo "usage: $0 EXPERIMENT_ID" >&2
  exit 2
fi

experiment=$(aws fis get-experiment --id "$1" --output json)
targets=$(aws fis list-experiment-resolved-targets --experiment-id "$1" --output json)
nodes=$(kubectl get nodes --output json)

jq --null-input --compact-output --argjson experiment "$experiment" --argjson targets "$targets" --argjson nodes "$nodes" '
  # The CLI writes 2026-11-28T12:00:00.5+01:00, or seconds, as it is configured.
  def seconds:
    if type == "number" then floor else
      capture("^(?<time>[^.Z+]{19})(\\.[0-9]+)?(Z|(?<sign>[+-])(?<hours>[0-9]{2}):?(?<minutes>[0-9]{2}))$")
      | (.time + "Z" | fromdate)
        - if .sign == null then 0 else (.sign + "1" | tonumber) * ((.hours | tonumber) * 3600 + (.minutes | tonumber) * 60) end
    end;

  ([$nodes.items[] | {key: (.spec.providerID | split("/") | last), value: .metadata.name}] | from_entries) as $names
  | if $experiment.experiment.endTime == null then error("the experiment has not ended: its labels are told when it has") else . end
  | [
      $experiment.experiment.actions[]
      | select(.state.status == "completed" or .state.status == "stopped")
      | {from: (.startTime | seconds), to: (.endTime | seconds), hit: [.targets // {} | .[]]} as $action
      | $targets.resolvedTargets[]
      | select(.targetName | IN($action.hit[]))
      | [.targetInformation[] | capture("(?<id>i-[0-9a-f]{8,17})$").id][0]
      | {series: ($names[.] // .), from: $action.from, to: $action.to, anomaly: true, source: "chaos"}
    ]
  | unique
  | if length == 0 then error("no action hit an instance: there is nothing to label") else . end
'
